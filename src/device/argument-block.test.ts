import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Assembler, mem, rax, rcx, rdi, rsi, xmm } from "../codegen/index.ts";
import { addressOf, viewAt } from "../native/index.ts";
import { ArgumentBlock, openDevice, timeRuns } from "./index.ts";
import { x86Absence } from "./open.ts";

const skip = x86Absence() ?? false;

/** `kernel(args)`: copies the 24 bytes at args.from to args.to, as machine code sees them. */
function emitCopy(): Uint8Array {
  const asm = new Assembler();
  asm.mov(rsi, mem(rdi, { disp: 0 }));
  asm.mov(rcx, mem(rdi, { disp: 8 }));
  asm.mov(rax, mem(rsi));
  asm.mov(mem(rcx), rax);
  asm.vmovups(xmm(0), mem(rsi, { disp: 8 }));
  asm.vmovups(mem(rcx, { disp: 8 }), xmm(0));
  asm.ret();
  return asm.finish();
}

test("machine code reads what JavaScript wrote", { skip }, () => {
  const device = openDevice({ rung: "x86", threads: 1 });
  const kernel = device.load(emitCopy(), "copy");
  const [args, from] = [16, 24].map((bytes) => new ArgumentBlock(device, bytes));
  const out = new DataView(device.allocate(24));
  fc.assert(
    fc.property(
      fc.maxSafeInteger(),
      fc.float(),
      fc.integer({ min: -(2 ** 31), max: 2 ** 32 - 1 }),
      (wide, real, narrow) => {
        from.setInt64(0, wide);
        from.setFloat32(8, real);
        from.setInt32(12, narrow);
        from.setAddress(16, from.address);
        args.setAddress(0, from.address);
        args.setAddress(8, addressOf(out));
        device.launch(kernel, args.address, 1);
        assert.equal(out.getBigInt64(0, true), BigInt(wide));
        assert.ok(Object.is(out.getFloat32(8, true), real));
        assert.equal(out.getInt32(12, true), narrow | 0);
        assert.equal(out.getBigUint64(16, true), BigInt(from.address));
      },
    ),
  );
  device.close();
});

test("a block grows with its contents, and refuses fields outside and what is no address", () => {
  const device = openDevice({ threads: 1 });
  const block = new ArgumentBlock(device, 10);
  block.setInt32(60, 7);
  assert.throws(() => block.setInt32(64, 1), /got 64, wanted a multiple of 4 within 64 bytes/);
  assert.throws(() => block.setInt64(60, 1), /field of 8 bytes: got 60/);
  assert.throws(() => block.setInt32(-4, 1), /got -4/);
  assert.throws(() => block.setFloat32(2, 1), /got 2/);
  for (const address of [0, -8, Number.NaN, undefined as never, 2 ** 60]) {
    assert.throws(() => block.setAddress(0, address), /wanted a positive safe integer/);
  }
  block.reserve(50);
  assert.equal(block.bytes, 64);
  block.reserve(65);
  assert.equal(block.bytes, 128);
  block.reserve(1000);
  assert.equal(block.bytes, 1000);
  if (device.rung === "x86") {
    assert.equal(block.address % 64, 0);
    assert.equal(new Int32Array(viewAt(block.address, 64))[15], 7);
  }
  device.close();
});

test("timing gives medians per call, and wall time at least the thread's own", () => {
  let calls = 0;
  const timing = timeRuns(
    () => {
      calls++;
      const untilMs = performance.now() + 1;
      while (performance.now() < untilMs);
    },
    { warmups: 1, runs: 3, calls: 2 },
  );
  assert.deepEqual([calls, timing.runs], [8, 3]);
  assert.ok(timing.wallUs >= 1000 && timing.threadCpuUs <= timing.wallUs + 50);
});
