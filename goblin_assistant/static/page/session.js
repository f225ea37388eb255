// Who is signed in. The access token is in this module's memory. The refresh token is in a cookie
// that no script can read, and that is sent to /auth/session only.

import { ApiError, fetched, patiently } from "./api.js";

const ROUTE = "/auth/session";
const EARLY_SECONDS = 60;
const LONGEST_TIMER = 2 ** 31 - 1;

let token = null;
let ends = 0; // by performance.now(): a person's clock may be wrong, or set anew
let timer = 0;
let renewing = null;

/** The user as the server shows it; null when nobody is signed in. */
export let user = null;

/** This session, as `GET /auth/sessions` names it. */
export let sessionId = null;

/** Fires `change` when somebody signs in or out, in this tab or another. */
export const session = new EventTarget();

const otherTabs = new BroadcastChannel("goblin-session");
otherTabs.onmessage = ({ data }) => {
  if (data === "signed-out") {
    left = true;
    forget();
  }
  // Another user's session has replaced the cookie of this tab: reload as that user.
  else if (data.signedIn !== user?.id) location.reload();
};

/** Create an account, then sign in. */
export async function register(email, password) {
  await patiently(() => fetched("/auth/register", json({ email, password })));
  await signIn(email, password);
}

/** Sign in. Raises ApiError. */
export async function signIn(email, password) {
  const login = () => fetched("/auth/login", json({ email, password }));
  const pair = await (await patiently(login)).json();
  await locked(() => exchange({ refresh_token: pair.refresh_token }));
  otherTabs.postMessage({ signedIn: user.id });
}

/** Whether the user signed out: then the sign-in form needs no explanation. */
export let left = false;

/** End this session, here and on the server. `ended`: there it has ended already. */
export async function signOut({ ended = false } = {}) {
  try {
    await locked(() => fetched(ROUTE, { method: "DELETE" }));
  } catch (error) {
    if (!ended) throw error; // else only the cookie is left, and it is good for nothing
  }
  left = true;
  forget();
  otherTabs.postMessage("signed-out");
}

/** Adopt the session that a new password has begun. */
export async function adopt(refreshToken) {
  await locked(() => exchange({ refresh_token: refreshToken }));
}

/** Renew the session. Concurrent calls share one request. */
export function renew() {
  renewing ??= locked(() => exchange({})).finally(() => {
    renewing = null;
  });
  return renewing;
}

/** An access token that is good for a while. Raises ApiError when nobody is signed in. */
export async function accessToken() {
  if (token === null || performance.now() > ends - EARLY_SECONDS * 500) await renew();
  if (token === null) throw new ApiError(401, { error: "signed_out", message: "Sign in again" });
  return token;
}

// A refresh token can be used once, and all tabs share one: the lock lets them take turns. Browsers
// have no locks without TLS. Then the server helps: a token just used gives the same answer again.
function locked(work) {
  return navigator.locks ? navigator.locks.request("goblin-session", work) : work();
}

async function exchange(body) {
  let response;
  try {
    response = await fetched(ROUTE, json(body));
  } catch (error) {
    if (error.status === 401) forget();
    throw error;
  }
  if (response.status === 204) {
    forget();
    return;
  }
  const answer = await response.json();
  if (user !== null && user.id !== answer.user.id) {
    location.reload();
    await new Promise(() => {}); // no call of the old user may continue as the new one
  }
  token = answer.access_token;
  sessionId = answer.session_id;
  const before = user;
  user = answer.user;
  left = false;
  plan(answer.expires_in);
  if (before === null) session.dispatchEvent(new Event("change"));
}

function plan(seconds) {
  ends = performance.now() + seconds * 1000;
  clearTimeout(timer);
  const wait = Math.max(seconds - EARLY_SECONDS, seconds / 2) * 1000;
  // A failure is ignored here: the next call renews again, and reports the error.
  timer = setTimeout(() => renew().catch(() => {}), Math.min(wait, LONGEST_TIMER));
}

function forget() {
  const before = user;
  token = user = sessionId = null;
  clearTimeout(timer);
  if (before !== null) session.dispatchEvent(new Event("change"));
}

function json(body) {
  return {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
}
