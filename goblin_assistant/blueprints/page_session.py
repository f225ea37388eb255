"""The session of the page: its refresh token is in a cookie that only these routes see."""

from __future__ import annotations

import orjson
from apiflask import APIBlueprint
from flask import Response

from goblin_assistant.errors import Unauthorized
from goblin_assistant.runtime import runtime
from goblin_assistant.schemas.accounts import SessionIn, SessionOut, user_out
from goblin_assistant.web import page_session
from goblin_assistant.web.openapi import describe

bp = APIBlueprint("page_session", __name__, tag="Accounts")


@bp.post(page_session.PATH)
@bp.input(SessionIn, arg_name="body")
@describe("Renew the page's session", answer=SessionOut, errors=(401, 403, 413, 415))
def renew(body: SessionIn) -> Response:
    """For the page only: gives an access token and puts the next refresh token into the cookie.
    With `refresh_token`, as a login gave it, the cookie takes over that session. Without a cookie
    the answer is 204: nobody is signed in. Within seconds a used token gives the same answer."""
    page_session.check_origin()
    token = body.refresh_token or page_session.token()
    if token is None:
        return Response(status=204)
    try:
        pair, user = runtime().accounts.sessions.renew(token)
    except Unauthorized as error:
        if body.refresh_token is None:
            # The cookie is of no use any more: the next visit need not ask.
            response = Response()
            page_session.drop(response)
            error.headers["Set-Cookie"] = response.headers["Set-Cookie"]
        raise
    answer = {
        "access_token": pair.access_token,
        "token_type": pair.token_type,
        "expires_in": pair.expires_in,
        "session_id": pair.session_id,
        "user": user_out(user),
    }
    response = Response(orjson.dumps(answer), content_type="application/json")
    page_session.keep(response, pair.refresh_token)
    return response


@bp.delete(page_session.PATH)
@describe("End the page's session", status=204, errors=(403,))
def end() -> Response:
    """Ends the session of the cookie, and takes the cookie away."""
    page_session.check_origin()
    token = page_session.token()
    if token is not None:
        runtime().accounts.sessions.end(token)
    response = Response(status=204)
    page_session.drop(response)
    return response
