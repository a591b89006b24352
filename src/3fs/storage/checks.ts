/** @file Requests from afar are what they should be, or are refused with `fs-input-invalid`. */
import { fsError } from "../errors.ts";
import { type ChunkId, chunkSizes } from "../types.ts";
import type { ChunkChange } from "./engine.ts";
import type { UpdateTag } from "./records.ts";
import type {
  ChainAddress,
  ForwardRequest,
  ListRequest,
  ReadRequest,
  UpdateRequest,
} from "./types.ts";

const largest = chunkSizes[chunkSizes.length - 1];

function refuse(field: string, got: unknown, wanted: string): never {
  throw fsError("fs-input-invalid", `${field} is ${String(got)}: give ${wanted}.`);
}

function checkWhole(field: string, value: unknown, least: number, most: number): void {
  if (Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= most) return;
  refuse(field, value, `a whole number from ${least} to ${most}`);
}

const most = Number.MAX_SAFE_INTEGER;

/** Checks the target, the chain and its version. */
export function checkAddress(request: ChainAddress): void {
  if (typeof request !== "object" || request === null) refuse("the request", request, "an object");
  checkWhole("targetId", request.targetId, 1, most);
  checkWhole("chainId", request.chainId, 1, most);
  checkWhole("chainVersion", request.chainVersion, 0, most);
}

function checkChunk(chunk: ChunkId): void {
  checkWhole("chunk.inode", chunk?.inode, 1, most);
  checkWhole("chunk.index", chunk?.index, 0, most);
}

function checkTag(tag: UpdateTag): void {
  checkWhole("tag.clientId", tag?.clientId, 1, most);
  checkWhole("tag.channel", tag?.channel, 0, most);
  checkWhole("tag.seq", tag?.seq, 1, most);
}

function checkChange(change: ChunkChange, chunkBytes: number): void {
  if (!chunkSizes.includes(chunkBytes)) refuse("chunkBytes", chunkBytes, "64 KiB times 1 to 1024");
  switch (change?.kind) {
    case "remove":
      return;
    case "truncate":
      checkWhole("change.length", change.length, 0, chunkBytes);
      return;
    case "replace":
    case "write": {
      if (!(change.data instanceof Uint8Array)) refuse("change.data", change.data, "bytes");
      const offset = change.kind === "write" ? change.offset : 0;
      checkWhole("change.offset", offset, 0, chunkBytes);
      checkWhole("the end of change.data", offset + change.data.length, 0, chunkBytes);
      return;
    }
    default:
      refuse("change.kind", (change as ChunkChange | undefined)?.kind, "write, truncate or remove");
  }
}

/** Checks a read. */
export function checkRead(request: ReadRequest): void {
  checkAddress(request);
  checkChunk(request.chunk);
  checkWhole("offset", request.offset, 0, largest);
  checkWhole("length", request.length, 1, largest);
}

/** Checks a client's update; only targets replace. */
export function checkUpdate(request: UpdateRequest): void {
  checkAddress(request);
  checkChunk(request.chunk);
  checkTag(request.tag);
  checkChange(request.change, request.chunkBytes);
  if (request.change.kind === "replace") {
    refuse("change.kind", "replace", "write, truncate or remove");
  }
}

/** Checks an update from another target. */
export function checkForward(request: ForwardRequest): void {
  checkAddress(request);
  checkChunk(request.chunk);
  checkChange(request.change, request.chunkBytes);
  if (request.tag !== undefined) checkTag(request.tag);
  checkWhole("version", request.version, 1, most);
  checkWhole("madeIn", request.madeIn, 0, most);
  checkWhole("digest", request.digest, 0, 2 ** 32 - 1);
  checkWhole("order.length", request.order?.length, 2, 2);
  for (const part of request.order) checkWhole("order", part, 0, most);
}

/** Checks a listing. */
export function checkList(request: ListRequest): void {
  checkAddress(request);
  if (request.inode !== undefined) checkWhole("inode", request.inode, 1, most);
  checkWhole("limit", request.limit, 1, 10_000);
  if (request.from !== undefined && !/^\d+:\d+$/.test(request.from)) {
    refuse("from", request.from, "`next` of the page before");
  }
}
