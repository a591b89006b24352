import assert from "node:assert/strict";
import { test } from "node:test";
import { type Builder, type KernelOptions, stageKernel } from "../dsl/builder.ts";
import { Barriers, initBarriers } from "../dsl/pipeline.ts";
import { SharedTile, TensorMap } from "../dsl/tile.ts";
import type { U32 } from "../dsl/values.ts";
import { Accumulator, startProduct, waitProducts } from "../dsl/warpgroup.ts";
import { EmulatorFault } from "./fault.ts";
import { emulate, type Launch } from "./machine.ts";
import { GlobalMemory } from "./memory.ts";
import { testSchedules as schedules } from "./schedules.ts";
import { multiplyTile } from "./tensor-core.ts";

/** Runs a kernel on nothing but an output of 4 KiB; gives the fault, if any, under any schedule. */
function faultOf(options: KernelOptions, body: (k: Builder) => void): EmulatorFault | undefined {
  const kernel = stageKernel("faulty", options, (k) => body(k));
  for (const schedule of schedules()) {
    const memory = new GlobalMemory();
    const output = memory.output("out", 4096);
    const view = { address: output.address, dims: [32, 32], strideBytes: [128] };
    const args = kernel.params.map(({ type }) => (type === "map" ? view : output.address));
    const launch: Launch = {
      grid: [kernel.clusterSize, 1, 1],
      memory,
      args,
      schedule,
      stepsMax: 1e5,
    };
    try {
      emulate(kernel, launch);
    } catch (error) {
      assert.ok(error instanceof EmulatorFault, String(error));
      return error;
    }
  }
  return undefined;
}

test("lanes that take both sides of branches and leave loops at different times", () => {
  const kernel = stageKernel("divergent", { threads: 32 }, (k) => {
    const out = k.paramPointer("out");
    const sum = k.variable(0);
    k.loop(k.lane.add(1), (i) => {
      k.if(
        i.and(1).eq(0),
        () => sum.set(sum.add(i)),
        () => k.if(i.gt(4), () => sum.set(sum.add(1000))),
      );
    });
    k.store("global", out.at(k.lane, 4), [sum]);
  });
  const memory = new GlobalMemory();
  const output = memory.output("out", 128);
  emulate(kernel, { grid: [1, 1, 1], memory, args: [output.address] });
  const expected = Array.from({ length: 32 }, (_, lane) => {
    let sum = 0;
    for (let i = 0; i <= lane; i++) sum += i % 2 === 0 ? i : i > 4 ? 1000 : 0;
    return sum;
  });
  assert.deepEqual([...output.u32], expected);
});

/** What each lane writes. */
function wordsOf(body: (k: Builder) => readonly U32[]): number[][] {
  let count = 0;
  const kernel = stageKernel("words", { threads: 32 }, (k) => {
    const out = k.paramPointer("out");
    const words = body(k);
    count = words.length;
    words.forEach((word, i) => {
      k.store("global", out.at(k.lane.add(32 * i), 4), [word]);
    });
  });
  const memory = new GlobalMemory();
  const output = memory.output("out", 128 * count);
  emulate(kernel, { grid: [1, 1, 1], memory, args: [output.address] });
  return Array.from({ length: count }, (_, i) => [...output.u32.subarray(32 * i, 32 * i + 32)]);
}

test("values cross the lanes of a warp", () => {
  const lanes = Array.from({ length: 32 }, (_, lane) => lane);
  const odd = 0xaaaaaaaa;
  assert.deepEqual(
    wordsOf((k) => [
      k.shuffle(k.lane, 5),
      k.shuffle(k.lane, 3, "bfly"),
      k.shuffle(k.lane, 1, "up"),
      k.shuffle(k.lane, 1, "down"),
      k.ballot(k.lane.and(1).eq(1)),
      k.any(k.lane.eq(40)).select(k.u32(1), k.u32(0)),
      k.reduceInteger(k.lane, "add"),
      k.reduceInteger(k.lane.add(3), "min"),
      k.reduceInteger(k.lane, "max"),
      k.reduceInteger(k.lane.shl(2), "or"),
    ]),
    [
      lanes.map(() => 5),
      lanes.map((lane) => lane ^ 3),
      lanes.map((lane) => Math.max(0, lane - 1)),
      lanes.map((lane) => Math.min(31, lane + 1)),
      lanes.map(() => odd),
      lanes.map(() => 0),
      lanes.map(() => 496),
      lanes.map(() => 3),
      lanes.map(() => 31),
      lanes.map(() => 124),
    ],
  );
});

test("integers wrap, shift and divide as the hardware's do", () => {
  const values = wordsOf((k) => {
    const big = k.lane.xor(k.lane).add(0xfffffff0);
    const zero = k.lane.xor(k.lane);
    return [
      big.add(0x20),
      zero.sub(1),
      big.mul(big),
      big.div(7),
      big.rem(7),
      big.shr(zero.add(32)),
      big.mad(3, 5),
      big.isNegative().select(k.u32(1), k.u32(2)),
      big.toF32().asU32(),
    ];
  });
  const float = new Uint32Array(Float32Array.of(0xfffffff0).buffer)[0];
  assert.deepEqual(
    values.map(([first]) => first),
    [0x10, 0xffffffff, 256, 613566754, 2, 0, 0xffffffd5, 1, float],
  );
});

test("a trap ends the launch, and an invalidated barrier's memory serves otherwise", () => {
  const trapped = faultOf({ threads: 32 }, (k) => k.if(k.lane.eq(3), () => k.trap()));
  assert.equal(trapped?.code, "trap");
  const reuse = (invalidate: boolean) =>
    faultOf({ threads: 32 }, (k) => {
      const barrier = new Barriers(k, 1, 1);
      initBarriers(k, [barrier]);
      k.firstThread(() => {
        if (invalidate) barrier.invalidate();
        k.store("shared", barrier.at(0), [k.u32(1)]);
      });
    });
  assert.equal(reuse(true), undefined);
  assert.equal(reuse(false)?.code, "mbarrier-misuse");
});

test("a deadlock names what each warp waits for, and the line of TypeScript", () => {
  const fault = faultOf({ threads: 64 }, (k) => {
    const barrier = new Barriers(k, 1, 2);
    initBarriers(k, [barrier]);
    k.if(k.warp.eq(0), () => k.elected(() => barrier.arrive(0)));
    barrier.wait(0, 0);
  });
  assert.equal(fault?.code, "deadlock");
  const line = /warp 1 of block 0 at src\/codegen\/ptx\/emulator\/emulator\.test\.ts:\d+ waits for/;
  assert.match(fault.message, line);
  assert.match(fault.message, /1 of 2 arrivals and 0 bytes missing/);
});

test("two warps that share memory without a barrier race", () => {
  const fault = faultOf({ threads: 64 }, (k) => {
    const box = k.shared(256, 16);
    k.store("shared", k.threadId.mad(4, box), [k.threadId]);
    k.load("shared", k.threadId.xor(32).mad(4, box));
  });
  assert.ok(fault?.code === "race" || fault?.code === "uninitialised", fault?.message);
});

test("tensor cores need a proxy fence after ordinary stores, a wgmma.fence, and a wait", () => {
  const product = (fences: { proxy: boolean; wait: boolean; touch: boolean }) =>
    faultOf({ threads: 128 }, (k) => {
      const shape = { type: "bf16", rows: 64, columns: 64, swizzle: 128 } as const;
      const tile = new SharedTile(k, shape);
      for (let i = 0; i < 16; i++) {
        k.store("shared", k.threadId.add(128 * i).mad(4, tile.address), [k.u32(0)]);
      }
      if (fences.proxy) k.fenceAsync();
      k.syncThreads();
      const acc = new Accumulator(k, 64);
      startProduct(acc, tile.alongRows(), tile.alongRows());
      if (fences.touch) acc.values[3].set(1);
      if (fences.wait) waitProducts(k);
    });
  assert.equal(product({ proxy: true, wait: true, touch: false }), undefined);
  assert.equal(product({ proxy: false, wait: true, touch: false })?.code, "proxy-fence");
  assert.equal(product({ proxy: true, wait: false, touch: false })?.code, "unfinished");
  assert.equal(product({ proxy: true, wait: true, touch: true })?.code, "wgmma-misuse");
});

test("operations of whole warps are refused in divergent branches", () => {
  const fault = faultOf({ threads: 128 }, (k) => {
    k.if(k.lane.lt(3), () => k.syncThreads());
  });
  assert.equal(fault?.code, "divergence");
});

test("misuse of boxes, barriers and addresses", () => {
  const unaligned = faultOf({ threads: 32 }, (k) => {
    const map = new TensorMap(k, "out", { type: "u32", box: [32, 8], swizzle: 128 });
    const full = new Barriers(k, 1, 1);
    initBarriers(k, [full]);
    const room = k.shared(2048, 1024);
    k.firstThread(() => map.loadBox(room.add(512), full.at(0), [0, 0]));
  });
  assert.equal(unaligned?.code, "misaligned");
  const outside = faultOf({ threads: 32 }, (k) => {
    k.store("global", k.paramPointer("out").at(k.lane.add(2000), 4), [k.lane]);
  });
  assert.equal(outside?.code, "out-of-bounds");
  const none = faultOf({ threads: 32 }, (k) => new Barriers(k, 1, 1).wait(0, 0));
  assert.equal(none?.code, "mbarrier-misuse");
});

test("promotion every 128 of k keeps what 14 bits lose", () => {
  // One row times one column, k = 4096: the truncated sum drifts, the promoted one does not.
  const k = 4096;
  const a = Float32Array.from({ length: k }, (_, i) => 1 + ((i * 7) % 8) / 8);
  const b = Float32Array.from({ length: 4 * k }, (_, i) => 1 + ((i * 5) % 8) / 8);
  const sumOf = (promote: number) => {
    const total = new Float32Array(4);
    for (let block = 0; block < k; block += promote) {
      const sum = new Float32Array(4);
      for (let at = block; at < block + promote; at += 32) {
        const columns = new Float32Array(4 * 32);
        for (let j = 0; j < 4; j++) columns.set(b.subarray(j * k + at, j * k + at + 32), j * 32);
        multiplyTile(sum, a.subarray(at, at + 32), columns, { m: 1, n: 4, k: 32 }, "hopperFp8");
      }
      total[0] += sum[0];
    }
    return total[0];
  };
  let exact = 0;
  for (let i = 0; i < k; i++) exact += a[i] * b[i];
  const error = (value: number) => Math.abs(value - exact) / exact;
  assert.ok(error(sumOf(128)) < 1e-3, `promoted: ${error(sumOf(128))}`);
  assert.ok(error(sumOf(k)) > 5 * error(sumOf(128)), `not promoted: ${error(sumOf(k))}`);
});
