/**
 * @file Filling a successor that is behind: its listing is compared with what is here, chunk by chunk under
 * the chunk's lock, and what differs is sent whole; what it has too much is removed. Writes go on
 * meanwhile, and pass to the successor, too. At the end it learns the channels and may serve.
 */
import type { BaleenError } from "../../base/index.ts";
import type { ChainInfo, ChunkId, TargetId } from "../types.ts";
import type { StorageNode, Target } from "./node.ts";
import { digestOf, keyOf } from "./records.ts";
import type { ChunkInfo } from "./types.ts";

/** Chunks that are sent at once: enough to keep both disks busy, and a bound on memory. */
const atOnce = 8;
const pageLimit = 5000;

/** How long a filled target may take to be called serving, before it is compared once more. */
const againMs = 1000;

/**
 * Fills `successor` as long as the chain stays as it is. One that was told that it is filled, and then
 * started anew before the manager heard of it, is compared and told again. Never rejects.
 */
export async function keepFilling(
  node: StorageNode,
  target: Target,
  chain: ChainInfo,
  successor: TargetId,
): Promise<void> {
  while (node.isCurrent(chain)) {
    // What fails here has been tried until the chain changed, or this target has failed as a whole.
    await fillSuccessor(node, target, chain, successor).catch(() => {});
    await node.sleep(againMs);
  }
}

async function fillSuccessor(
  node: StorageNode,
  target: Target,
  chain: ChainInfo,
  successor: TargetId,
): Promise<void> {
  const address = {
    ...{ chainId: chain.chainId, chainVersion: chain.version, targetId: successor },
  };
  const peer = node.peerOf(successor);
  const there = new Map<string, ChunkInfo>();
  let from: string | undefined;
  do {
    const request = { ...address, limit: pageLimit, ...(from !== undefined && { from }) };
    const page = await insist(node, chain, () => peer.list(request));
    if (page === undefined) return;
    for (const info of page.chunks) there.set(keyOf(info.chunk), info);
    from = page.next;
  } while (from !== undefined);

  const here = [...target.engine.records()].map(({ chunk }) => chunk);
  const keysHere = new Set(here.map(keyOf));
  const extra = [...there.values()].filter(({ chunk }) => !keysHere.has(keyOf(chunk)));
  const all = [...here, ...extra.map(({ chunk }) => chunk)];
  const progress = { done: 0, total: all.length };
  target.progress = progress;
  const lane = async (): Promise<void> => {
    for (let chunk = all.pop(); chunk !== undefined; chunk = all.pop()) {
      if (!node.isCurrent(chain)) return;
      await fillChunk(node, target, chain, successor, chunk, there.get(keyOf(chunk)));
      progress.done++;
    }
  };
  try {
    await Promise.all(Array.from({ length: atOnce }, lane));
    await insist(node, chain, () => {
      const channels = target.engine.allChannels();
      return peer.syncDone({ ...address, channels });
    });
  } finally {
    target.progress = undefined;
  }
}

async function fillChunk(
  node: StorageNode,
  target: Target,
  chain: ChainInfo,
  successor: TargetId,
  chunk: ChunkId,
  info: ChunkInfo | undefined,
): Promise<void> {
  await target.locks.with(keyOf(chunk), () =>
    insist(node, chain, async () => {
      // What is pending goes to the successor on its way to being committed.
      if (target.engine.record(chunk)?.pending !== undefined) await node.drive(target, chunk);
      const committed = target.engine.record(chunk)?.committed;
      if (committed === undefined) {
        if (info !== undefined) await node.sendRemoval(chain, successor, chunk);
        return;
      }
      const isSame =
        info?.version === committed.version &&
        info.digest === digestOf(committed) &&
        !info.isPending;
      if (!isSame) await node.send(target, chain, successor, { chunk, version: committed });
    }),
  );
}

/** Tries until it works, or the chain has changed: then undefined. */
async function insist<T>(
  node: StorageNode,
  chain: ChainInfo,
  work: () => Promise<T>,
): Promise<T | undefined> {
  while (node.isCurrent(chain)) {
    try {
      return await work();
    } catch (error) {
      await node.pause(error as BaleenError);
    }
  }
  return undefined;
}
