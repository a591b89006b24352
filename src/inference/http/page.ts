/** @file The static page at `/`: a folder read once, so that no request can name another file. */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { extname, join, relative, sep } from "node:path";

const contentTypes: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".ico": "image/x-icon",
  ".json": "application/json",
  ".woff2": "font/woff2",
};

const securityHeaders: Readonly<Record<string, string>> = {
  "content-security-policy":
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
};

/** Answers a GET of a path of the page; undefined for paths that are no file of it. */
export type Page = (path: string, ifNoneMatch: string | null) => Response | undefined;

interface PageFile {
  readonly body: Uint8Array;
  readonly type: string;
  readonly tag: string;
}

/** The page in `folder`, `/` being its index.html; an empty one where there is no folder. */
export function readPage(folder: string | undefined): Page {
  const files = new Map<string, PageFile>();
  if (folder && existsSync(folder)) {
    for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      const body = readFileSync(path);
      files.set(`/${relative(folder, path).split(sep).join("/")}`, {
        body,
        type: contentTypes[extname(path)] ?? "application/octet-stream",
        tag: `"${createHash("sha256").update(body).digest("base64url").slice(0, 20)}"`,
      });
    }
  }
  return (path, ifNoneMatch) => {
    const file = files.get(path === "/" ? "/index.html" : path);
    if (!file) return undefined;
    const headers = { ...securityHeaders, "cache-control": "no-cache", etag: file.tag };
    if (ifNoneMatch === file.tag) return new Response(null, { status: 304, headers });
    return new Response(file.body as Uint8Array<ArrayBuffer>, {
      headers: { ...headers, "content-type": file.type },
    });
  };
}
