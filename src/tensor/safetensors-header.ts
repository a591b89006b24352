/**
 * @file The header of a safetensors file, checked: whatever bytes come in, either a consistent
 * table of tensors comes out or one `BaleenError` that names the file and the field.
 * Layout: u64 little-endian header length, JSON header, data. The header maps each name to dtype,
 * shape and `data_offsets` (relative to the data), which must tile the data, no hole, no overlap.
 * Source: the format's description, github.com/huggingface/safetensors.
 */
import { formatBytes } from "../base/index.ts";
import { tensorError } from "./errors.ts";

/** Element types that the format knows, with their bytes. */
export const safetensorsDtypes = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
} as const;

/** An element type as safetensors files name it. */
export type SafetensorsDtype = keyof typeof safetensorsDtypes;

/** What a file says about one tensor. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** Where its first byte lies, from the start of the file. */
  readonly byteOffset: number;
  readonly byteLength: number;
  /** Path of the file that holds it. */
  readonly file: string;
}

/** A checked header. */
export interface Header {
  /** In the order of the header. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** The longest header that is read, as in the format's own library. */
export const headerBytesMax: 100_000_000 = 100_000_000;

/** Bytes before the header: its length. */
export const headerStart: 8 = 8;

/** Length of the JSON header of `file`, from its first 8 bytes, checked against the file's size. */
export function headerLength(file: string, prefix: Uint8Array, fileBytes: number): number {
  if (prefix.length < headerStart) {
    throw invalid(file, `is ${fileBytes} bytes long, too short for a header length of 8 bytes`);
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
  if (length > BigInt(headerBytesMax)) {
    throw invalid(file, `header length is ${length} bytes, beyond the limit of ${headerBytesMax}`);
  }
  if (Number(length) > fileBytes - headerStart) {
    throw invalid(
      file,
      `header length is ${length} bytes, but only ${fileBytes - headerStart} follow`,
    );
  }
  return Number(length);
}

/** The checked contents of the JSON header `bytes` of `file`, a file of `fileBytes` bytes. */
export function parseHeader(file: string, bytes: Uint8Array, fileBytes: number): Header {
  const json = parseJson(file, bytes);
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw invalid(file, "header is not a JSON object");
  }
  const dataStart = headerStart + bytes.length;
  const tensors = new Map<string, TensorInfo>();
  let metadata: Readonly<Record<string, string>> = {};
  for (const [name, entry] of Object.entries(json)) {
    if (name === "__metadata__") metadata = checkMetadata(file, entry);
    else tensors.set(name, checkEntry(file, name, entry, dataStart));
  }
  checkTiling(file, tensors, dataStart, fileBytes);
  return { tensors, metadata };
}

function parseJson(file: string, bytes: Uint8Array): unknown {
  // The format asks for an opening brace; a byte order mark or white space before it is refused.
  if (bytes[0] !== 0x7b) throw invalid(file, "header does not start with '{'");
  let text: string;
  let json: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    json = JSON.parse(text);
  } catch (cause) {
    throw invalid(file, "header is not valid JSON in UTF-8", cause);
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) throw invalid(file, `header has the key ${quote(twice)} twice`);
  return json;
}

/** A key that an object of the (valid) JSON `text` has twice; `JSON.parse` keeps the last. */
function duplicateKey(text: string): string | undefined {
  const tokens = /["{}]/g;
  const open: Set<string>[] = [];
  for (let match = tokens.exec(text); match; match = tokens.exec(text)) {
    const [token] = match;
    if (token === "{") open.push(new Set());
    else if (token === "}") open.pop();
    else {
      tokens.lastIndex = stringEnd(text, match.index);
      let next = tokens.lastIndex;
      while (text[next] <= " ") next++;
      // A string before a colon is a key.
      if (text[next] !== ":") continue;
      const key = String(JSON.parse(text.slice(match.index, tokens.lastIndex)));
      if (open.at(-1)?.has(key)) return key;
      open.at(-1)?.add(key);
    }
  }
  return undefined;
}

/** Where the JSON string that starts at `start` ends; it may be longer than regexes bear. */
function stringEnd(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); ; end = text.indexOf('"', end + 1)) {
    let slashes = 0;
    while (text[end - 1 - slashes] === "\\") slashes++;
    if (slashes % 2 === 0) return end + 1;
  }
}

function checkMetadata(file: string, entry: unknown): Readonly<Record<string, string>> {
  const isStrings =
    typeof entry === "object" &&
    entry !== null &&
    !Array.isArray(entry) &&
    Object.values(entry).every((value) => typeof value === "string");
  if (!isStrings) throw invalid(file, "__metadata__ is not an object of strings");
  return entry as Readonly<Record<string, string>>;
}

function checkEntry(file: string, name: string, entry: unknown, dataStart: number): TensorInfo {
  const at = `tensor ${quote(name)}`;
  if (typeof entry !== "object" || entry === null) throw invalid(file, `${at} is not an object`);
  const { dtype, shape, data_offsets: offsets } = entry as Record<string, unknown>;
  if (typeof dtype !== "string" || !Object.hasOwn(safetensorsDtypes, dtype)) {
    const known = Object.keys(safetensorsDtypes).join(", ");
    throw invalid(file, `${at}: dtype is ${quote(dtype)}, not one of ${known}`);
  }
  if (!Array.isArray(shape) || !shape.every(isSize)) {
    throw invalid(file, `${at}: shape is ${quote(shape)}, not a list of non-negative integers`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) {
    const wanted = "not two non-negative integers";
    throw invalid(file, `${at}: data_offsets is ${quote(offsets)}, ${wanted}`);
  }
  const [begin, end] = offsets as [number, number];
  const byteLength = shape.reduce(
    (product: number, size: number) => product * size,
    safetensorsDtypes[dtype as SafetensorsDtype],
  );
  if (!Number.isSafeInteger(byteLength)) {
    throw invalid(file, `${at}: shape [${shape}] is too large to be one`);
  }
  if (end - begin !== byteLength) {
    const spanned = `data_offsets [${begin}, ${end}] span ${end - begin} bytes`;
    throw invalid(file, `${at}: ${spanned}, but ${dtype} [${shape}] takes ${byteLength}`);
  }
  const byteOffset = dataStart + begin;
  return { name, dtype: dtype as SafetensorsDtype, shape, byteOffset, byteLength, file };
}

function checkTiling(
  file: string,
  tensors: ReadonlyMap<string, TensorInfo>,
  dataStart: number,
  fileBytes: number,
): void {
  const inOrder = [...tensors.values()].sort(
    (x, y) => x.byteOffset - y.byteOffset || x.byteLength - y.byteLength,
  );
  let position = dataStart;
  for (const { name, byteOffset, byteLength } of inOrder) {
    if (byteOffset !== position) {
      const what = byteOffset < position ? "overlap the tensor" : "leave a hole after the tensor";
      throw invalid(file, `tensor ${quote(name)}: data_offsets ${what} before it`);
    }
    position += byteLength;
    if (position > fileBytes) {
      throw invalid(
        file,
        `tensor ${quote(name)}: data ends at byte ${position}, but the file at ${fileBytes}`,
      );
    }
  }
  if (position !== fileBytes) {
    const extra = formatBytes(fileBytes - position);
    throw invalid(file, `${extra} follow the last tensor that the header describes`);
  }
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** `value` as JSON, cut to a length that fits a message. */
export function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? "missing";
  return text.length > 120 ? `${text.slice(0, 120)}...` : text;
}

/** The error of a file that lies; also for indices of shards. */
export function invalid(file: string, what: string, cause?: unknown): Error {
  return tensorError(
    "tensors-invalid",
    `${file}: ${what}. Download or write the file again.`,
    cause,
  );
}
