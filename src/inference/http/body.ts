/** @file Request bodies: bounded, declared as JSON, well-formed UTF-8, one JSON object. */
import { formatBytes } from "../../base/index.ts";
import { ApiError } from "./errors.ts";

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** The JSON object in the body of `request`, or an `ApiError` that says what is wrong with it. */
export async function readJsonObject(
  request: Request,
  maxBytes: number,
): Promise<Record<string, unknown>> {
  checkHeaders(request.headers);
  const value = parse(decode(await readBytes(request, maxBytes)));
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    const got = value === null ? "null" : Array.isArray(value) ? "an array" : `a ${typeof value}`;
    throw new ApiError(400, "invalid_type", `The body is ${got}: send a JSON object.`);
  }
  return value as Record<string, unknown>;
}

function checkHeaders(headers: Headers): void {
  const [type, ...parameters] = (headers.get("content-type") ?? "").toLowerCase().split(";");
  if (type.trim() !== "application/json") {
    throw new ApiError(
      415,
      "unsupported_media_type",
      `content-type: got "${type.trim().slice(0, 80)}", wanted application/json. ` +
        'Add the header "content-type: application/json".',
    );
  }
  const charset = parameters.map((text) => text.trim()).find((text) => text.startsWith("charset="));
  if (charset && !/^charset="?utf-?8"?$/.test(charset)) {
    throw new ApiError(
      415,
      "unsupported_charset",
      `content-type: got ${charset.slice(0, 80)}, wanted UTF-8. Send the body as UTF-8.`,
    );
  }
  const encoding = headers.get("content-encoding");
  if (encoding && encoding !== "identity") {
    throw new ApiError(
      415,
      "unsupported_encoding",
      `content-encoding: got ${encoding.slice(0, 80)}, wanted none. Send the body uncompressed.`,
    );
  }
}

/** A declared length is read in one go (the server holds the client to it), others by piece. */
async function readBytes(request: Request, maxBytes: number): Promise<Uint8Array> {
  const declared = request.headers.get("content-length");
  if (declared !== null) {
    if (Number(declared) > maxBytes) throw tooLarge(maxBytes);
    return new Uint8Array(await received(request.arrayBuffer()));
  }
  const pieces: Uint8Array[] = [];
  const reader = request.body?.getReader();
  let bytes = 0;
  while (reader) {
    const { done, value } = await received(reader.read());
    if (done) break;
    bytes += value.length;
    if (bytes > maxBytes) {
      reader.cancel().catch(() => {}); // The rest is unwanted: its failure changes nothing.
      throw tooLarge(maxBytes);
    }
    pieces.push(value);
  }
  return Buffer.concat(pieces);
}

async function received<T>(read: Promise<T>): Promise<T> {
  try {
    return await read;
  } catch (cause) {
    throw new ApiError(
      400,
      "incomplete_body",
      "The connection ended before the whole body came. Send the request again.",
      { cause },
    );
  }
}

function tooLarge(maxBytes: number): ApiError {
  return new ApiError(
    413,
    "request_too_large",
    `The body is larger than ${formatBytes(maxBytes)}. Send a shorter prompt, ` +
      "or start the server with a larger --max-body.",
  );
}

function decode(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new ApiError(400, "invalid_utf8", "The body is not valid UTF-8. Encode it as UTF-8.");
  }
}

function parse(text: string): unknown {
  if (text.trim() === "") {
    throw new ApiError(400, "invalid_json", "The body is empty: send a JSON object.");
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ApiError(
      400,
      "invalid_json",
      `The body is not valid JSON (${(error as Error).message.slice(0, 120)}). ` +
        "JSON has no NaN, Infinity, comments or trailing commas: correct it and send it again.",
    );
  }
}
