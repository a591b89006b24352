/** @file Litmus tests of copies: tensor maps, bulk copies, stores into peers, `cp.async`. */

import { type Builder, stageKernel } from "../dsl/builder.ts";
import { Barriers, initBarriers } from "../dsl/pipeline.ts";
import { commitStores, SharedTile, TensorMap, type TileShape, waitStores } from "../dsl/tile.ts";
import type { U32 } from "../dsl/values.ts";
import type { Swizzle } from "../ir.ts";
import { swizzleAddress } from "../layout.ts";
import { counting, type Litmus, matrixView } from "./litmus.ts";

/** Waits for one barrier's first phase in all warps. */
function loadOnce(k: Builder, bytes: number, start: (barrier: U32) => void): void {
  const barrier = new Barriers(k, 1, 1);
  initBarriers(k, [barrier]);
  k.firstThread(() => {
    barrier.arriveExpecting(0, bytes);
    start(barrier.at(0));
  });
  barrier.wait(0, 0);
}

/** Copies `words` of shared memory at `address` to the output, a word a lane. */
function dump(k: Builder, address: U32, words: number): void {
  const out = k.paramPointer("out");
  for (let i = 0; i < words; i += k.threads) {
    const at = k.threadId.add(i);
    k.if(at.lt(words), () =>
      k.store("global", out.at(at, 4), k.load("shared", at.mad(4, address))),
    );
  }
}

/** A box of 8 rows lands with its 16-byte chunks permuted. */
function swizzled(swizzle: Swizzle): Litmus {
  const columns = swizzle === 0 ? 8 : swizzle / 4;
  const shape: TileShape = { type: "u32", rows: 8, columns, swizzle };
  const kernel = stageKernel(`tma_swizzle_${swizzle}`, { threads: 64 }, (k) => {
    const tile = new SharedTile(k, shape, k.shared(8 * columns * 4, 1024));
    const map = TensorMap.ofTile(k, "source", shape);
    loadOnce(k, 8 * columns * 4, (barrier) => map.load(tile, barrier, [0, 0]));
    dump(k, tile.address, 8 * columns);
  });
  return {
    name: kernel.name,
    prediction: `a box of 8 rows of ${columns * 4} B lies with address bits XORed for swizzle ${swizzle}`,
    kernel,
    blocks: 1,
    prepare(memory) {
      const source = memory.input("source", counting(8 * columns));
      const output = memory.output("out", 8 * columns * 4);
      const expected = new Uint32Array(8 * columns);
      for (let i = 0; i < expected.length; i++) expected[swizzleAddress(i * 4, swizzle) / 4] = i;
      return { args: [matrixView(source, columns, 8, 4), output.address], output, expected };
    },
  };
}

const plain: TileShape = { type: "u32", rows: 4, columns: 8, swizzle: 0 };

function overEdge(): Litmus {
  const kernel = stageKernel("tma_over_edge", { threads: 64 }, (k) => {
    const tile = new SharedTile(k, plain);
    const map = TensorMap.ofTile(k, "source", plain);
    // Two columns to the left of the tensor, and two rows below it.
    loadOnce(k, 128, (barrier) => map.load(tile, barrier, [-2, 1]));
    dump(k, tile.address, 32);
  });
  return {
    name: kernel.name,
    prediction: "what hangs over an edge arrives as zeros, and counts as bytes of the whole box",
    kernel,
    blocks: 1,
    prepare(memory) {
      const source = memory.input("source", counting(24));
      const output = memory.output("out", 128);
      const expected = Uint32Array.from({ length: 32 }, (_, i) => {
        const [row, column] = [1 + Math.floor(i / 8), (i % 8) - 2];
        return row < 3 && column >= 0 ? row * 8 + column : 0;
      });
      return { args: [matrixView(source, 8, 3, 4), output.address], output, expected };
    },
  };
}

function stored(reduce: boolean): Litmus {
  const shape: TileShape = { ...plain, type: "f32" };
  const kernel = stageKernel(
    reduce ? "tma_reduce_add" : "tma_store_clips",
    { threads: 64 },
    (k) => {
      const tile = new SharedTile(k, shape);
      const map = TensorMap.ofTile(k, "target", shape);
      k.if(k.warp.eq(1), () => {
        k.store("shared", k.lane.mad(4, tile.address), [k.lane.add(1).toF32()]);
        k.fenceAsync();
      });
      k.syncThreads();
      k.firstThread(() => {
        map.store(tile, [4, 0], reduce);
        commitStores(k);
        waitStores(k, "complete");
      });
    },
  );
  return {
    name: kernel.name,
    prediction: reduce
      ? "two blocks add their boxes to what is there, elements outside the tensor are dropped"
      : "a stored box is cut off at the tensor's edges and writes nothing else",
    kernel,
    blocks: reduce ? 2 : 1,
    prepare(memory) {
      const output = memory.inout("target", new Float32Array(24).fill(0.5));
      const bits = new Float32Array(24).fill(0.5);
      for (let row = 0; row < 3; row++) {
        for (let column = 4; column < 8; column++) {
          const value = row * 8 + column - 4 + 1;
          bits[row * 8 + column] = reduce ? 0.5 + 2 * value : value;
        }
      }
      const view = matrixView(output, 8, 3, 4);
      return { args: [view], output, expected: new Uint32Array(bits.buffer) };
    },
  };
}

function multicast(): Litmus {
  const kernel = stageKernel("tma_multicast", { threads: 32, clusterSize: 2 }, (k) => {
    const tile = new SharedTile(k, plain);
    const map = TensorMap.ofTile(k, "source", plain);
    const barrier = new Barriers(k, 1, 1);
    const out = k.paramPointer("out");
    initBarriers(k, [barrier]);
    // The second block announces its bytes late: delivery may come before it.
    k.firstThread(() => {
      k.if(k.clusterRank.eq(0), () => map.load(tile, barrier.at(0), [0, 0], { multicast: 3 }));
      barrier.arriveExpecting(0, 128);
    });
    barrier.wait(0, 0);
    const value = k.load("shared", k.lane.mad(4, tile.address));
    k.store("global", out.at(k.clusterRank.mad(32, k.lane), 4), value);
    k.syncCluster();
  });
  return {
    name: kernel.name,
    prediction:
      "one load fills both blocks and signals the barrier of each, before or after expect_tx",
    kernel,
    blocks: 2,
    prepare(memory) {
      const source = memory.input("source", counting(32));
      const output = memory.output("out", 256);
      const expected = Uint32Array.from({ length: 64 }, (_, i) => i % 32);
      return { args: [matrixView(source, 8, 4, 4), output.address], output, expected };
    },
  };
}

function bulkThere(): Litmus {
  const kernel = stageKernel("bulk_there_and_back", { threads: 64 }, (k) => {
    const [from, to] = [k.paramPointer("source"), k.paramPointer("out")];
    const buffer = k.shared(128, 128);
    loadOnce(k, 128, (barrier) => {
      const src = [buffer, from, k.u32(128), barrier].map(({ operand }) => operand);
      k.node("BulkCopy", { direction: "load" }, [], src);
    });
    k.if(k.warp.eq(1), () => {
      const own = k.lane.mad(4, buffer);
      const [value] = k.load("shared", own);
      k.store("shared", own, [value.add(1)]);
      k.fenceAsync();
    });
    k.syncThreads();
    k.firstThread(() => {
      const src = [to, buffer, k.u32(128)].map(({ operand }) => operand);
      k.node("BulkCopy", { direction: "store" }, [], src);
      commitStores(k);
      waitStores(k, "read");
    });
  });
  return {
    name: kernel.name,
    prediction: "128 contiguous bytes come, are changed by ordinary stores, fenced, and go",
    kernel,
    blocks: 1,
    prepare(memory) {
      const source = memory.input("source", counting(32));
      const output = memory.output("out", 128);
      const expected = counting(32).map((i) => i + 1);
      return { args: [source.address, output.address], output, expected };
    },
  };
}

/** Block 0 sends to block 1, which writes out what came. */
function peer(
  name: string,
  prediction: string,
  send: (k: Builder, to: U32, barrier: U32) => void,
): Litmus {
  const kernel = stageKernel(name, { threads: 32, clusterSize: 2 }, (k) => {
    const out = k.paramPointer("out");
    const inbox = k.shared(128, 128);
    const barrier = new Barriers(k, 1, 1);
    initBarriers(k, [barrier]);
    k.if(k.clusterRank.eq(1), () => k.firstThread(() => barrier.arriveExpecting(0, 128)));
    k.if(k.clusterRank.eq(0), () => send(k, k.mapShared(inbox, 1), k.mapShared(barrier.at(0), 1)));
    k.if(k.clusterRank.eq(1), () => {
      barrier.wait(0, 0);
      k.store("global", out.at(k.lane, 4), k.load("shared", k.lane.mad(4, inbox)));
    });
    k.syncCluster();
  });
  return {
    name,
    prediction,
    kernel,
    blocks: 2,
    prepare(memory) {
      const output = memory.output("out", 128);
      return { args: [output.address], output, expected: counting(32).map((i) => 3 * i) };
    },
  };
}

function plainCopies(): Litmus {
  const kernel = stageKernel("cp_async", { threads: 64 }, (k) => {
    const [from, out] = [k.paramPointer("source"), k.paramPointer("out")];
    const buffer = k.shared(1024, 128);
    const target = k.threadId.mad(16, buffer);
    k.node("CpAsync", { bytes: 16 }, [], [target.operand, from.at(k.threadId, 16).operand]);
    k.node("CpAsyncCommit", {});
    k.node("CpAsyncWait", { pending: 0 });
    k.syncThreads();
    const other = k.u32(63).sub(k.threadId);
    k.store("global", out.at(k.threadId, 16), k.load("shared", other.mad(16, buffer), 4));
  });
  return {
    name: kernel.name,
    prediction:
      "once waited for, 16 bytes of cp.async are there for the thread, after a barrier for all",
    kernel,
    blocks: 1,
    prepare(memory) {
      const source = memory.input("source", counting(256));
      const output = memory.output("out", 1024);
      const expected = counting(256).map((i) => (63 - (i >> 2)) * 4 + (i & 3));
      return { args: [source.address, output.address], output, expected };
    },
  };
}

/** All tests of copies. */
export const copyTests = (): Litmus[] => [
  swizzled(0),
  swizzled(32),
  swizzled(64),
  swizzled(128),
  overEdge(),
  stored(false),
  stored(true),
  multicast(),
  bulkThere(),
  peer("bulk_to_peer", "a bulk copy into a peer signals the peer's barrier", (k, to, barrier) => {
    const outbox = k.shared(128, 128);
    k.store("shared", k.lane.mad(4, outbox), [k.lane.mul(3)]);
    k.fenceAsync();
    k.syncWarp();
    k.elected(() => {
      const src = [to, outbox, k.u32(128), barrier].map(({ operand }) => operand);
      k.node("BulkCopy", { direction: "peer" }, [], src);
    });
  }),
  peer("st_async", "st.async writes into a peer and delivers 4 bytes a lane", (k, to, barrier) => {
    const src = [k.lane.mad(4, to), barrier, k.lane.mul(3)].map(({ operand }) => operand);
    k.node("StoreAsync", { width: 1 }, [], src);
  }),
  plainCopies(),
];
