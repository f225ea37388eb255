"""What to tell the developer whose path leads nowhere: the API is not offered here, or the base URL
of the client is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator

from werkzeug.routing import MapAdapter

_ONE_BY_ONE = "batches are not offered here; send the requests one by one"
_NO_FILES = "files are not kept here; send their content within the request"
_NO_STATE = "nothing is kept here between requests; send the whole conversation with each"
_OTHER = "this API is not offered here; /docs lists what is"
_NOT_OFFERED = {
    "/v1/completions": "legacy completions are not offered here; use POST /v1/chat/completions",
    "/v1/complete": "legacy completions are not offered here; use POST /v1/messages",
    "/v1/chat/completions": _NO_STATE,
    "/v1/responses": _NO_STATE,
    "/v1/responses/compact": "compaction is not offered here; send a shorter conversation",
    "/v1/responses/input_tokens": "tokens are counted by POST /v1/messages/count_tokens only",
    "/v1/conversations": _NO_STATE,
    "/v1/threads": _NO_STATE,
    "/v1/assistants": _NO_STATE,
    "/v1/batches": _ONE_BY_ONE,
    "/v1/messages/batches": _ONE_BY_ONE,
    "/v1/files": _NO_FILES,
    "/v1/uploads": _NO_FILES,
    "/v1/vector_stores": _NO_FILES,
    "/v1/containers": _NO_FILES,
    "/v1/skills": _NO_FILES,
    "/v1/agents": _OTHER,
    "/v1/audio": _OTHER,
    "/v1/evals": _OTHER,
    "/v1/fine_tuning": _OTHER,
    "/v1/images": _OTHER,
    "/v1/moderations": _OTHER,
    "/v1/realtime": _OTHER,
    "/v1/videos": _OTHER,
}
"""The providers' other APIs (https://platform.openai.com/docs/api-reference,
https://platform.claude.com/docs/en/api/overview), each with what lies below it."""

_LONGEST = 200
_MOST_PARTS = 10
_VARIABLE = re.compile(r"<(?:[^:<>]*:)?([^<>]*)>")


def explanation(path: str, routes: MapAdapter) -> tuple[str, str]:
    """Why there is no route at `path` and what to do, and the path in whose dialect to say it: that
    of the route that was meant. The text holds nothing of the path itself."""
    parts = path.strip("/").split("/")
    for length in (3, 2):  # "/v1/messages/batches/batch_1" is a batch
        prefix = "/" + "/".join(parts[:length])
        told = _NOT_OFFERED.get(prefix)
        # Not where a whole route was taken for the base URL: /v1/responses/responses.
        if told is not None and path != prefix + prefix.removeprefix("/v1"):
            return told, path
    if len(path) <= _LONGEST and len(parts) <= _MOST_PARTS and not _is_our_own(parts[0], routes):
        for candidate in _candidates(parts):
            if methods := routes.allowed_methods(candidate):
                rule, _ = routes.match(candidate, method=next(iter(methods)), return_rule=True)
                meant = _VARIABLE.sub(r"{\1}", rule.rule)
                lacks = candidate == f"/v1/{'/'.join(parts)}"
                wrong = "lacks /v1 at its end" if lacks else "has a wrong path"
                text = f"there is no such route; {meant} may be meant: the base URL {wrong}"
                return text, candidate
    return "there is no such route; /docs lists all routes", path


def _is_our_own(first: str, routes: MapAdapter) -> bool:
    """Whether paths that begin so belong to this product and to no provider's API."""
    ours = (f"/{first}", f"/{first}/")
    return first != "v1" and any(
        rule.rule.startswith(ours[1]) or rule.rule == ours[0] for rule in routes.map.iter_rules()
    )


def _candidates(parts: list[str]) -> Iterator[str]:
    """What the path would be with a right base URL: `/v1` and its last parts."""
    parts = [part.lower() for part in parts if part]
    for start in range(len(parts)):
        rest = parts[start:]
        yield "/" + "/".join(rest if rest[0] == "v1" else ["v1", *rest])
