import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Assembler,
  bcst,
  Gpr,
  k0,
  k1,
  mem,
  r8,
  r12,
  rax,
  rbx,
  rcx,
  rdi,
  rsi,
  rsp,
  xmm,
  ymm,
  zmm,
} from "../index.ts";

function hexOf(body: (asm: Assembler) => void): string {
  const asm = new Assembler();
  body(asm);
  return Buffer.from(asm.finish()).toString("hex");
}

test("backward jumps are short where they reach, forward jumps are long", () => {
  const hex = hexOf((asm) => {
    const top = asm.here("top");
    const end = asm.label("end");
    asm.jae(end);
    asm.dec(rax);
    asm.jnz(top);
    asm.jmp(end);
    asm.bind(end);
    asm.call(top);
    asm.jmp(rax);
  });
  const wanted = "0f830a000000" + "48ffc8" + "75f5" + "e900000000" + "e8ebffffff" + "ffe0";
  assert.equal(hex, wanted);
});

test("a backward jump turns long one byte beyond the reach of the short form", () => {
  const jumpOver = (bytes: number) =>
    hexOf((asm) => {
      const top = asm.here();
      asm.data(new Uint8Array(bytes).fill(0x90));
      asm.jmp(top);
    }).replace(/^(90)+/, "");
  assert.equal(jumpOver(126), "eb80");
  assert.equal(jumpOver(127), "e97cffffff");
});

test("labels must be bound once, and be bound when used", () => {
  const asm = new Assembler();
  const label = asm.label("loop");
  asm.jz(label);
  assert.throws(() => asm.finish(), /jz at 2: label loop_0 is not bound/);
  asm.bind(label);
  assert.throws(() => asm.bind(label), /label loop_0: is bound already/);
  const far = new Assembler();
  far.lea(rax, mem(far.here(), { disp: -0x7fffffff }));
  assert.throws(() => far.finish(), /lea at 3: label here_0 is -?\d+ bytes away, wanted 32 bits/);
});

test("nothing can be emitted after finish, and a prefix belongs to one instruction", () => {
  const asm = new Assembler();
  asm.ret();
  asm.finish();
  assert.throws(() => asm.ret(), /after finish/);
  assert.equal(
    hexOf((code) => {
      code.lock().xadd(mem(rdi), rax);
      code.lock().dec(mem(rdi));
      code.lock().cmpxchg(mem(rdi).d, rcx.d);
      code.rep().movsb();
      code.ret();
    }),
    "f0480fc107" + "f048ff0f" + "f00fb10f" + "f3a4" + "c3",
  );
  assert.throws(() => new Assembler().lock().mov(mem(rdi), rax), /lock mov/);
  assert.throws(() => new Assembler().lock().add(rax, rcx), /lock add/);
  assert.throws(() => new Assembler().rep().ret(), /rep ret/);
});

test("constants lie behind the code, aligned, once each, and are addressed relative to rip", () => {
  const asm = new Assembler();
  const ones = asm.constant(Float32Array.of(1, 1, 1, 1));
  asm.vmovups(xmm(0), mem(ones));
  asm.vaddps(xmm(0), xmm(0), mem(asm.constant(Float32Array.of(1, 1, 1, 1))));
  // The displacement counts from the end of the instruction, immediate included.
  asm.vpermilps(xmm(1), mem(ones, { disp: 4 }), 0);
  asm.ret();
  const code = asm.finish();
  const view = new DataView(code.buffer);
  assert.equal(code.length, 48);
  assert.equal(view.getFloat32(32, true), 1);
  assert.equal(view.getInt32(4, true), 32 - 8);
  assert.equal(view.getInt32(12, true), 32 - 16);
  assert.equal(view.getInt32(21, true), 36 - 26);
  assert.throws(() => new Assembler().constant([]), /constant: got no bytes/);
});

test("alignment is filled with no-operations", () => {
  for (let before = 0; before < 20; before++) {
    const asm = new Assembler();
    asm.data(new Uint8Array(before));
    asm.align(16);
    assert.equal(asm.offset, Math.ceil(before / 16) * 16);
  }
  assert.equal(
    hexOf((asm) => {
      asm.ret();
      asm.align(16);
    }),
    `c3660f1f840000000000${"660f1f440000"}`,
  );
  assert.throws(() => new Assembler().align(24), /power of two up to 64/);
});

test("a wrong operand is named in the message", () => {
  const fails = (body: (asm: Assembler) => void, message: RegExp) =>
    assert.throws(() => body(new Assembler()), message);
  fails((asm) => asm.vaddps(zmm(1), ymm(2), zmm(3)), /vaddps.*operand 2: got ymm2, wanted a zmm/);
  fails(
    (asm) => asm.vpand(ymm(20), ymm(1), ymm(2)),
    /no EVEX form.*register 16 or above \(ymm20\)/,
  );
  fails((asm) => asm.vpermb(zmm(1), zmm(2), bcst(mem(rdi))), /takes no broadcast/);
  fails((asm) => asm.vmovups(mem(rdi), zmm(1), { mask: k1, zero: true }), /zeroing: not into/);
  fails((asm) => asm.vaddps(zmm(1), zmm(1), zmm(1), { zero: true }), /zeroing wants a write mask/);
  fails((asm) => asm.vaddps(zmm(1), zmm(1), zmm(1), { mask: k0 }), /write mask k0/);
  fails((asm) => asm.vaddps(ymm(1), ymm(1), ymm(1), { rounding: "up" }), /512 bits or scalar/);
  fails((asm) => asm.vandps(zmm(1), zmm(1), zmm(1), { rounding: "up" }), /takes none/);
  fails((asm) => asm.vgatherdps(zmm(1), mem(rdi, { index: zmm(2) })), /wants a write mask/);
  const index = mem(rdi, { index: ymm(1) });
  fails((asm) => asm.vgatherdps(ymm(1), index, ymm(2)), /must be distinct/);
  fails((asm) => asm.vmovups(zmm(1), mem(rdi, { index: zmm(2) })), /wanted a zmm register or mem/);
  fails((asm) => asm.vperm2f128(zmm(1), zmm(1), zmm(1), 0), /512 bits: exists only with 256/);
  fails((asm) => asm.vpermps(xmm(1), xmm(1), xmm(1)), /128 bits: exists only with 256, 512/);
  fails(
    (asm) => asm.vpshufd(ymm(1), ymm(1), 300),
    /operand 3: got 300, wanted an integer that fits/,
  );
  fails((asm) => asm.add(rax, 2 ** 40), /operand 2: got 1099511627776/);
  fails((asm) => asm.add(rax, 1.5), /operand 2: got 1.5/);
  fails((asm) => asm.mov(rax, rcx.d), /operand 2: got ecx, wanted a register of 64 bits/);
  fails(
    (asm) => asm.movzx(rax, mem(rdi)),
    /operand 2: got memory \[rdi\], wanted memory of 8 bits/,
  );
  fails((asm) => asm.shl(rax, rcx), /operand 2: got rcx, wanted cl/);
  assert.throws(() => mem(rax, { index: rsp }), /index of a memory operand: got rsp/);
  assert.throws(() => mem(rax.d), /base of a memory operand: got eax/);
  assert.throws(() => mem(rax, { disp: 2 ** 31 }), /displacement of a memory operand/);
  assert.throws(() => zmm(32), /vector register: got 32, wanted 0 to 31/);
  assert.throws(() => new Gpr(16), /general-purpose register: got 16/);
});

test("the compiler rejects operands of the wrong kind", () => {
  const asm = new Assembler();
  // @ts-expect-error a mask is no vector
  assert.throws(() => asm.vaddps(zmm(1), zmm(2), k1));
  // @ts-expect-error too few operands
  assert.throws(() => asm.vaddps(zmm(1), zmm(2)));
  // @ts-expect-error no such decorator
  asm.vaddps(zmm(1), zmm(2), zmm(3), { masked: k1 });
  // @ts-expect-error integer instructions take no decorators
  assert.throws(() => asm.add(rax, rcx, { mask: k1 }));
  // @ts-expect-error two memory operands
  assert.throws(() => asm.mov(mem(rax), mem(rcx)));
  // @ts-expect-error a jump takes a label or a register
  assert.throws(() => asm.jmp(16));
});

test("memory prints as it is written, and moves by plus", () => {
  assert.equal(`${mem(r12, { index: r8, scale: 4, disp: -8 })}`, "[r12+r8*4-8]");
  assert.equal(`${mem(undefined, { disp: 64 })}`, "[64]");
  assert.equal(`${bcst(mem(rsi)).plus(8)}`, "[rsi+8]");
  assert.equal(bcst(mem(rsi)).plus(8).broadcast, true);
  assert.equal(`${rbx.b} ${rsi.b} ${r8.d} ${rax.w}`, "bl sil r8d ax");
});
