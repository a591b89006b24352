import assert from "node:assert/strict";
import { test } from "node:test";
import { stageKernel } from "./dsl/builder.ts";
import { SharedTile, TensorMap } from "./dsl/tile.ts";
import { Accumulator, startProduct } from "./dsl/warpgroup.ts";
import { emitPtx } from "./emit.ts";
import { emulate } from "./emulator/machine.ts";
import { GlobalMemory } from "./emulator/memory.ts";
import { decodeDescriptor, descriptorHigh, descriptorLow } from "./layout.ts";
import { assembleKernel, whyNoPtxas } from "./ptxas.ts";

/** y = a x + y, the kernel of the README. */
const axpy = stageKernel("axpy", { threads: 128 }, (k) => {
  const [x, y] = [k.paramPointer("x"), k.paramPointer("y")];
  const [a, n] = [k.paramF32("a"), k.paramU32("n")];
  const i = k.blockX.mad(128, k.threadId);
  k.if(i.lt(n), () => {
    const sum = a.fma(k.loadF32("global", x.at(i, 4)), k.loadF32("global", y.at(i, 4)));
    k.store("global", y.at(i, 4), [sum]);
  });
});

test("a kernel is written at the lowest version and target that it needs", () => {
  const { text, version, target } = emitPtx(axpy);
  assert.deepEqual({ version, target }, { version: 70, target: "sm_80" });
  assert.equal(
    text,
    `.version 7.0
.target sm_80
.address_size 64

.visible .entry axpy(
  .param .u64 axpy_x,
  .param .u64 axpy_y,
  .param .f32 axpy_a,
  .param .u32 axpy_n
)
.reqntid 128, 1, 1
.minnctapersm 1
{
  .reg .b32 %r<4>;
  .reg .f32 %f<4>;
  .reg .b64 %d<5>;
  .reg .pred %p<1>;
  ld.param.u64 %d0, [axpy_x];
  ld.param.u64 %d1, [axpy_y];
  ld.param.f32 %f0, [axpy_a];
  ld.param.u32 %r0, [axpy_n];
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %tid.x;
  mad.lo.u32 %r3, %r1, 128, %r2;
  setp.lt.u32 %p0, %r3, %r0;
  @!%p0 bra L0;
  mad.wide.u32 %d2, %r3, 4, %d0;
  ld.global.b32 %f1, [%d2];
  mad.wide.u32 %d3, %r3, 4, %d1;
  ld.global.b32 %f2, [%d3];
  fma.rn.f32 %f3, %f0, %f1, %f2;
  mad.wide.u32 %d4, %r3, 4, %d1;
  st.global.b32 [%d4], %f3;
L0:
  ret;
}
`,
  );
});

test("lines of TypeScript are named where asked", () => {
  const { text } = emitPtx(axpy, { lines: true });
  assert.match(text, /\.loc 1 \d+ 0\n {2}setp\.lt\.u32/);
  assert.match(text, /\.file 1 "src\/codegen\/ptx\/emit\.test\.ts"/);
});

test("it computes what the README says", () => {
  const memory = new GlobalMemory();
  const x = memory.input("x", Float32Array.of(1, 2, 3));
  const y = memory.inout("y", Float32Array.of(10, 20, 30));
  emulate(axpy, { grid: [1, 1, 1], memory, args: [x.address, y.address, 2, 3] });
  assert.deepEqual([...y.f32.subarray(0, 3)], [12, 24, 36]);
});

test("ptxas takes it", { skip: whyNoPtxas() }, () => {
  const { spillBytes, warnings } = assembleKernel(axpy);
  assert.deepEqual({ spillBytes, warnings }, { spillBytes: 0, warnings: [] });
});

test("a value of a kernel is no number of TypeScript", () => {
  stageKernel("mistake", { threads: 32 }, (k) => {
    const value = k.threadId;
    assert.throws(() => Number(value) + 1, /U32 of a kernel is no number of TypeScript/);
    assert.throws(() => `${value}`, /use \.add/);
  });
});

test("constants are folded, so that they cost no instruction", () => {
  const kernel = stageKernel("folded", { threads: 32 }, (k) => {
    k.store("global", k.paramPointer("out"), [k.u32(6).mul(k.u32(7)).add(0).shl(1)]);
  });
  assert.match(emitPtx(kernel).text, /st\.global\.b32 \[%d0\], 84;/);
});

test("what does not fit is refused while staging, with both sides named", () => {
  stageKernel("misfits", { threads: 128 }, (k) => {
    const tile = new SharedTile(k, { type: "bf16", rows: 64, columns: 64, swizzle: 128 });
    const map = new TensorMap(k, "a", { type: "bf16", box: [64, 32], swizzle: 128 });
    assert.throws(() => map.load(tile, k.u32(0), [0, 0]), /map a has boxes of 64 x 32 .* 64 x 64/);
    const acc = new Accumulator(k, 32);
    assert.throws(() => startProduct(acc, tile.alongRows(), tile.alongRows()), /B has 64 columns/);
    assert.throws(() => k.node("SetMaxRegisters", { count: 100, up: true }), /100 registers/);
    assert.throws(() => k.shared(300_000, 16), /wanted 232448/);
    assert.throws(() => k.u32(2 ** 33), /no 32-bit integer/);
  });
});

test("descriptors decode to what they were made of", () => {
  for (const swizzle of [0, 32, 64, 128] as const) {
    const layout = { swizzle, strideBytes: 1024, leadingBytes: 8192 };
    const low = (descriptorLow(layout) | (0x2400 >> 4)) >>> 0;
    assert.deepEqual(decodeDescriptor(low, descriptorHigh(layout)), { ...layout, address: 0x2400 });
  }
});
