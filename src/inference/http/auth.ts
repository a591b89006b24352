/** @file API keys, compared in constant time. */
import { createHash, timingSafeEqual } from "node:crypto";
import { ApiError } from "./errors.ts";

/**
 * A check of the `authorization` header: returns for `Bearer KEY` with one of `keys` (or where
 * there are none), else throws a 401. Digests are compared: neither content nor length leaks.
 */
export function keyCheck(keys: readonly string[]): (authorization: string | null) => void {
  const digests = keys.map(digest);
  return (authorization) => {
    if (digests.length === 0) return;
    const key = /^Bearer +(\S+) *$/i.exec(authorization ?? "")?.[1];
    if (key === undefined) {
      throw unauthorised("No API key was sent. Add the header Authorization: Bearer KEY.");
    }
    const given = digest(key);
    let known = false;
    for (const one of digests) known = timingSafeEqual(one, given) || known;
    if (!known) throw unauthorised("The API key is not known here. Send one the server accepts.");
  };
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

function unauthorised(message: string): ApiError {
  return new ApiError(401, "invalid_api_key", message, {
    headers: { "www-authenticate": "Bearer" },
  });
}
