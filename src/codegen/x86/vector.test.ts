import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../../base/index.ts";
import {
  addressOf,
  allocateMemory,
  callable,
  loadCode,
  nativeAbsence,
} from "../../native/index.ts";
import {
  Assembler,
  bf16FromE4m3,
  bf16FromExactPs,
  bf16FromPs,
  e4m3FromPs,
  expPs,
  type Isa,
  loadE4m3Table,
  mem,
  orderForE4m3,
  psFromBf16,
  psFromE4m3,
  r8,
  rax,
  rbx,
  rcx,
  rdi,
  rdx,
  reduceAddPs,
  reduceMaxPs,
  roundToE4m3,
  rsi,
  sigmoidPs,
  storeWords,
  type Vec,
  VectorBuilder,
} from "../index.ts";

/** Runs `code` with rdi, rsi, rdx = the addresses of `arrays` in that order, then rcx = `count`. */
function run(code: Uint8Array, arrays: readonly ArrayBufferView[], count: number): void {
  const block = new BigInt64Array(allocateMemory(64));
  arrays.forEach((array, i) => {
    block[i] = BigInt(addressOf(array));
  });
  block[3] = BigInt(count);
  callable(loadCode(code))(addressOf(block));
}

/** Code that unpacks the argument block into rdi, rsi, rdx, rcx and runs `body`. */
function kernel(isa: Isa, body: (v: VectorBuilder) => void): Uint8Array {
  const v = new VectorBuilder(new Assembler(), isa);
  v.kernel([rbx], () => {
    v.asm.mov(rax, rdi);
    for (const [i, register] of [rdi, rsi, rdx, rcx].entries()) {
      v.asm.mov(register, mem(rax, { disp: 8 * i }));
    }
    body(v);
  });
  return v.asm.finish();
}

/** CPUID's answer (eax, ebx, ecx, edx) for `leaf`, sub-leaf 0 or `sub`. */
function cpuid(leaf: number, sub: number = 0): Uint32Array {
  const asm = new Assembler();
  asm.push(rbx);
  asm.mov(r8, mem(rdi));
  asm.mov(rax.d, leaf);
  asm.mov(rcx.d, sub);
  asm.cpuid();
  for (const [i, register] of [rax, rbx, rcx, rdx].entries()) {
    asm.mov(mem(r8, { disp: 4 * i }), register.d);
  }
  asm.pop(rbx);
  asm.ret();
  const answer = new Uint32Array(allocateMemory(64), 0, 4);
  run(asm.finish(), [answer], 0);
  return answer;
}

/** The instruction sets of this machine, and why there are none. */
function machine(): { isas: Isa[]; skip: string | false } {
  const absence = nativeAbsence();
  if (absence) return { isas: [], skip: absence };
  const [, ebx, ecx] = cpuid(7);
  const [eax1] = cpuid(7, 1);
  const has = (word: number, ...bits: number[]) => bits.every((bit) => (word >>> bit) & 1);
  const isas: Isa[] = [];
  if (has(ebx, 3, 5, 8)) isas.push("avx2");
  if (has(ebx, 16, 17, 28, 30, 31)) isas.push("avx512");
  if (isas.includes("avx512") && has(ecx, 1) && has(eax1, 5)) isas.push("avx512-bf16");
  return { isas, skip: isas.length > 0 ? false : "this processor lacks AVX2" };
}

const { isas, skip } = machine();

/** dst[i] = what `body` makes of src[i], for every instruction set of the machine. */
function mapPs(
  isa: Isa,
  src: Float32Array,
  body: (v: VectorBuilder, dst: Vec, src: Vec) => void,
): Float32Array {
  const input = new Float32Array(allocateMemory(src.byteLength + 64), 0, src.length);
  input.set(src);
  const output = new Float32Array(allocateMemory(src.byteLength + 64), 0, src.length).fill(NaN);
  const code = kernel(isa, (v) => {
    const [from, to] = v.take("data", 2);
    v.loop(rcx, () => {
      v.load(from, mem(rsi));
      body(v, to, from);
      v.store(mem(rdi), to);
      v.asm.add(rsi, v.vectorBytes);
      v.asm.add(rdi, v.vectorBytes);
    });
  });
  const lanes = isa === "avx2" ? 8 : 16;
  assert.equal(src.length % lanes, 0);
  run(code, [output, input], src.length / lanes);
  return output;
}

const floats = new Float32Array(1);
const words = new Uint32Array(floats.buffer);

function fromBits(bits: number): number {
  words[0] = bits;
  return floats[0];
}

/** Float32 values around every power of two, with specials, seeded ones, both signs. */
function interestingBits(seed: number, count: number): Uint32Array {
  console.log(`seed ${seed}`);
  const random = new Random(seed);
  const bits: number[] = [0, 1, 0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff, 0x007fffff];
  for (let exponent = 0; exponent < 256; exponent++) {
    for (const mantissa of [0, 1, 0x7fff, 0x8000, 0x8001, 0x17fff, 0x18000, 0x18001, 0x7fffff]) {
      bits.push(exponent * 2 ** 23 + mantissa);
    }
    // Every e4m3 midpoint of the binade, and its neighbours.
    for (let eighth = 0; eighth < 16; eighth++) {
      for (const off of [-1, 0, 1]) {
        bits.push(Math.max(0, exponent * 2 ** 23 + eighth * 2 ** 19 + off));
      }
    }
  }
  while (bits.length < count / 2) bits.push(random.uint32() & 0x7fffffff);
  const all = [...bits, ...bits.map((one) => (one | 0x80000000) >>> 0)];
  while (all.length % 16) all.push(0);
  return Uint32Array.from(all);
}

test("e^x is within 2 ulp of Math.exp, and agrees between instruction sets", { skip }, () => {
  const values: number[] = [-Infinity, Infinity, NaN, 0, -0, 1, -1, -1e30, 1e30, 88.72283, 88.7229];
  for (let i = 0; values.length < 400_000; i++) values.push(-104.5 + i * 0.000484);
  for (let i = 0; i < 1000; i++) values.push((i - 500) * 2 ** -20);
  while (values.length % 16) values.push(0);
  const src = Float32Array.from(values);
  let first: Uint32Array | undefined;
  for (const isa of isas) {
    const got = mapPs(isa, src, expPs);
    let worst = 0;
    src.forEach((x, i) => {
      const wanted = Math.exp(x);
      const rounded = Math.fround(wanted);
      if (Number.isNaN(x) || !Number.isFinite(rounded) || rounded === 0) {
        assert.ok(Object.is(got[i], rounded), `${isa}: e^${x}: got ${got[i]}, wanted ${rounded}`);
        return;
      }
      const ulp = Math.max(2 ** -149, 2 ** (Math.floor(Math.log2(wanted)) - 23));
      const error = Math.abs(got[i] - wanted) / ulp;
      worst = Math.max(worst, error);
      if (error > 2) assert.fail(`${isa}: e^${x}: got ${got[i]}, wanted ${wanted}, ${error} ulp`);
    });
    console.log(`${isa}: worst error of e^x ${worst.toFixed(3)} ulp`);
    const bits = new Uint32Array(got.buffer, 0, got.length);
    first ??= bits;
    assert.ok(
      Buffer.from(bits.buffer).equals(Buffer.from(first.buffer)),
      `${isa}, ${isas[0]} differ`,
    );
  }
});

test("the sigmoid is within 3 ulp, saturates and keeps NaN", { skip }, () => {
  const values: number[] = [-Infinity, Infinity, NaN, 0, -100, 100];
  for (let i = 0; i < 50_000; i++) values.push(-87 + i * 0.0021);
  while (values.length % 16) values.push(0);
  const src = Float32Array.from(values);
  for (const isa of isas) {
    const got = mapPs(isa, src, sigmoidPs);
    assert.deepEqual([...got.subarray(0, 6)], [0, 1, NaN, 0.5, 0, 1]);
    src.subarray(6).forEach((x, i) => {
      const wanted = 1 / (1 + Math.exp(-x));
      const error = Math.abs(got[i + 6] - wanted) / 2 ** (Math.floor(Math.log2(wanted)) - 23);
      assert.ok(error <= 3, `${isa}: sigmoid(${x}): got ${got[i + 6]}, wanted ${wanted}`);
    });
  }
});

/** bf16 of float32 bits, ties to even, by comparing the distances to both neighbours. */
function bf16Reference(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  const down = bits >>> 16;
  const rest = bits & 0xffff;
  return rest > 0x8000 || (rest === 0x8000 && down & 1) ? down + 1 : down;
}

test("bf16 rounds to nearest even with subnormals and NaN, and widens exactly", { skip }, () => {
  const bits = interestingBits(Date.now() % 1e9, 60_000);
  const src = new Float32Array(bits.buffer);
  for (const isa of isas) {
    const got = mapPs(isa, src, (v, to, from) => {
      bf16FromPs(v, v.half(to), from);
      psFromBf16(v, to, v.half(to));
    });
    const gotBits = new Uint32Array(got.buffer, 0, got.length);
    bits.forEach((one, i) => {
      const wanted = (bf16Reference(one) << 16) >>> 0;
      assert.equal(gotBits[i], wanted, `${isa}: bf16 of bits ${one.toString(16)}`);
    });
  }
});

/** The e4m3 value of a code, from the definition. */
function e4m3(code: number): number {
  const sign = code & 0x80 ? -1 : 1;
  const [exponent, mantissa] = [(code >> 3) & 15, code & 7];
  if ((code & 0x7f) === 0x7f) return NaN;
  return sign * (exponent === 0 ? mantissa / 512 : (1 + mantissa / 8) * 2 ** (exponent - 7));
}

test("every e4m3 code decodes exactly to float32", { skip }, () => {
  for (const isa of isas) {
    for (const count of [1, 2] as const) {
      for (const scaled of [true, false]) {
        const codes = new Uint8Array(allocateMemory(256));
        for (let i = 0; i < 256; i++) codes[i] = i;
        const out = new Float32Array(allocateMemory(1024)).fill(7);
        const code = kernel(isa, (v) => {
          const dst = v.take("dst", count) as [Vec] | [Vec, Vec];
          v.loop(rcx, () => {
            psFromE4m3(v, dst, mem(rsi), { scaled });
            dst.forEach((vec, i) => {
              v.store(mem(rdi, { disp: i * v.vectorBytes }), vec);
            });
            v.asm.add(rsi, v.lanes * count);
            v.asm.add(rdi, v.vectorBytes * count);
          });
        });
        run(code, [out, codes], 256 / count / (isa === "avx2" ? 8 : 16));
        const wanted = Array.from(codes, (one) => e4m3(one) / (scaled ? 1 : 256));
        assert.deepEqual([...out], wanted, isa);
      }
    }
  }
});

test("every e4m3 code decodes exactly to bf16 by the table", { skip }, (t) => {
  if (!isas.includes("avx512-bf16")) return t.skip("this processor lacks AVX512_BF16");
  const codes = new Uint8Array(allocateMemory(256));
  for (let i = 0; i < 256; i++) codes[i] = i;
  for (const ordered of [true, false]) {
    const out = new Uint16Array(allocateMemory(512)).fill(7);
    const code = kernel("avx512-bf16", (v) => {
      const table = loadE4m3Table(v);
      const [from, even, odd] = v.take("data", 3);
      v.loop(rcx, () => {
        if (ordered) orderForE4m3(v, from, mem(rsi));
        else v.load(from, mem(rsi));
        bf16FromE4m3(v, even, odd, from, table);
        v.store(mem(rdi), even);
        v.store(mem(rdi, { disp: 64 }), odd);
        v.asm.add(rsi, 64);
        v.asm.add(rdi, 128);
      });
    });
    run(code, [out, codes], 4);
    codes.forEach((one, i) => {
      // Unordered, eights of codes alternate between the halves of the output.
      const eight = Math.floor((i % 64) / 8);
      const place = ordered ? i : i - (i % 64) + (eight % 2) * 32 + (eight >> 1) * 8 + (i % 8);
      const wanted = e4m3(one);
      const got = fromBits(out[place] * 65536);
      assert.ok(Object.is(got, wanted), `code ${one}: got ${got}, wanted ${wanted}`);
    });
  }
});

/** The e4m3 code of a float32, by searching the nearest of all finite codes. */
function e4m3Reference(bits: number): number {
  const sign = (bits >>> 24) & 0x80;
  const magnitude = Math.abs(fromBits(bits));
  if (Number.isNaN(magnitude)) return sign | 0x7f;
  let [low, high] = [0, 0x7e];
  if (magnitude >= 448) return sign | 0x7e;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (e4m3(middle) <= magnitude) low = middle;
    else high = middle;
  }
  const [below, above] = [magnitude - e4m3(low), e4m3(high) - magnitude];
  const code = below < above || (below === above && low % 2 === 0) ? low : high;
  return sign | code;
}

test("e4m3 rounds to nearest even, saturates and keeps NaN", { skip }, () => {
  const bits = interestingBits(Date.now() % 1e9, 60_000);
  const src = new Float32Array(bits.buffer);
  for (const isa of isas) {
    const asCode = mapPs(isa, src, (v, to, from) => {
      e4m3FromPs(v, to, from);
      v.asm.vpmovzxbd(to, to.x);
    });
    const codes = new Uint32Array(asCode.buffer, 0, asCode.length);
    const values = mapPs(isa, src, roundToE4m3);
    const asBf16 = mapPs(isa, src, (v, to, from) => {
      roundToE4m3(v, from, from);
      bf16FromExactPs(v, v.half(to), from);
      psFromBf16(v, to, v.half(to));
    });
    bits.forEach((one, i) => {
      const wanted = e4m3Reference(one);
      const what = `${isa}: e4m3 of ${fromBits(one)} (bits ${one.toString(16)})`;
      assert.equal(codes[i], wanted, what);
      assert.ok(Object.is(values[i], e4m3(wanted)), `${what}: got ${values[i]}`);
      assert.ok(Object.is(asBf16[i], e4m3(wanted)), `${what}: in bf16 got ${asBf16[i]}`);
    });
  }
});

test("reductions add in the documented order and find the maximum", { skip }, () => {
  const seed = Date.now() % 1e9;
  console.log(`seed ${seed}`);
  const random = new Random(seed);
  for (const isa of isas) {
    const lanes = isa === "avx2" ? 8 : 16;
    const src = Float32Array.from({ length: lanes }, () => random.normal());
    const sum = mapPs(isa, src, reduceAddPs)[0];
    const max = mapPs(isa, src, reduceMaxPs)[0];
    const partial = src.slice();
    for (let half = lanes / 2; half >= 1; half /= 2) {
      for (let i = 0; i < half; i++) partial[i] += partial[i + half];
    }
    assert.equal(sum, partial[0]);
    assert.equal(max, Math.max(...src));
  }
});

test("a tail reads and writes its lanes only, at run time and at compile time", { skip }, () => {
  for (const isa of isas) {
    for (let count = 0; count <= 17; count++) {
      for (const known of [true, false]) {
        const src = new Float32Array(allocateMemory(64)).map((_, i) => i + 1);
        const input = new Float32Array(allocateMemory(64));
        input.set(src);
        const output = new Float32Array(allocateMemory(128)).fill(-1);
        const code = kernel(isa, (v) => {
          const tail = v.tail(known ? count : rcx);
          const vec = v.take("data");
          v.fill(vec, 9);
          v.loadTail(vec, mem(rsi), tail);
          v.store(mem(rdi, { disp: 64 }), vec);
          v.storeTail(mem(rdi), vec, tail);
        });
        run(code, [output, input], count);
        const lanes = isa === "avx2" ? 8 : 16;
        for (let i = 0; i < lanes; i++) {
          assert.equal(output[i], i < count ? i + 1 : -1, `${isa} ${count} lane ${i}`);
          assert.equal(output[16 + i], i < count ? i + 1 : 0, `${isa} ${count} loaded lane ${i}`);
        }
      }
    }
  }
});

test("bf16 is copied and widened vector by vector, its tail alone touched", { skip }, () => {
  for (const isa of isas) {
    for (const count of [1, 2, 7, 8, 9, 15, 16, 31, 33]) {
      const words = Uint16Array.from({ length: 64 }, (_, i) => 0x3f80 + i);
      const input = new Uint16Array(allocateMemory(128));
      input.set(words);
      const narrow = new Uint16Array(allocateMemory(128)).fill(0xffff);
      const wide = new Float32Array(allocateMemory(256)).fill(-1);
      const code = kernel(isa, (v) => {
        const vec = v.take("data");
        v.eachVector(count, (first, tail) => {
          v.fill(vec, 9);
          psFromBf16(v, vec, mem(rsi, { disp: 2 * first }), tail);
          v.store(mem(rdx, { disp: 4 * first }), vec, tail);
          bf16FromExactPs(v, v.half(vec), vec);
          storeWords(v, mem(rdi, { disp: 2 * first }), v.half(vec), tail);
        });
      });
      run(code, [narrow, input, wide], count);
      words.forEach((word, i) => {
        const value = fromBits(word * 0x10000);
        assert.equal(narrow[i], i < count ? word : 0xffff, `${isa} ${count} word ${i}`);
        assert.equal(wide[i], i < count ? value : -1, `${isa} ${count} float ${i}`);
      });
    }
  }
});

test("a dot product by fma, broadcast and loop", { skip }, () => {
  for (const isa of isas) {
    const data = new Float32Array(allocateMemory(4096), 0, 64).map((_, i) => i);
    const input = new Float32Array(allocateMemory(4096), 0, 64);
    input.set(data);
    const output = new Float32Array(allocateMemory(64)).fill(NaN);
    const code = kernel(isa, (v) => {
      const [acc, x] = v.take("acc", 2);
      v.zero(acc);
      v.load(x, mem(rsi));
      v.loop(rcx, () => {
        v.fmaBroadcast(acc, x, mem(rsi));
        v.asm.add(rsi, 4);
      });
      v.store(mem(rdi), acc);
    });
    for (const count of [0, 1, 20]) {
      run(code, [output, input], count);
      const sum = count === 0 ? 0 : (count * (count - 1)) / 2;
      for (let i = 0; i < 8; i++) assert.equal(output[i], sum * i, `${isa} ${count}`);
    }
  }
});

test("the kernel of the README adds a multiple of a vector", { skip }, () => {
  for (const isa of isas) {
    for (const count of [0, 5, 8, 16, 33]) {
      const v = new VectorBuilder(new Assembler(), isa);
      v.kernel([], () => {
        // rdi points to the arguments: addresses of y, x and a, then the count
        const { asm } = v;
        asm.mov(rsi, mem(rdi, { disp: 8 }));
        asm.mov(rdx, mem(rdi, { disp: 16 }));
        asm.mov(rcx, mem(rdi, { disp: 24 }));
        asm.mov(rdi, mem(rdi));
        const [a, x, y] = v.take("axpy", 3);
        v.broadcast(a, mem(rdx));
        asm.mov(rax, rcx);
        asm.shr(rax, Math.log2(v.lanes));
        v.loop(rax, () => {
          v.load(y, mem(rdi));
          v.fma(y, a, mem(rsi));
          v.store(mem(rdi), y);
          asm.add(rsi, v.vectorBytes);
          asm.add(rdi, v.vectorBytes);
        });
        asm.and(rcx, v.lanes - 1);
        const tail = v.tail(rcx);
        v.loadTail(x, mem(rsi), tail);
        v.loadTail(y, mem(rdi), tail);
        v.fma(y, a, x);
        v.storeTail(mem(rdi), y, tail);
      });
      const y = new Float32Array(allocateMemory(256)).fill(1);
      const x = new Float32Array(allocateMemory(256)).map((_, i) => i);
      const xs = new Float32Array(allocateMemory(256));
      xs.set(x);
      const a = new Float32Array(allocateMemory(64)).fill(2);
      run(v.asm.finish(), [y, xs, a], count);
      const wanted = Array.from({ length: 64 }, (_, i) => (i < count ? 1 + 2 * i : 1));
      assert.deepEqual([...y], wanted, `${isa} ${count}`);
    }
  }
});

test("registers run out with a list of their holders, and come back", () => {
  const v = new VectorBuilder(new Assembler(), "avx2");
  v.take("acc", 12);
  v.take("b", 3);
  v.scope(() => {
    assert.equal(v.take("last").code, 15);
    assert.throws(() => v.take("more"), /registers for "more": got 0 free, wanted 1; held: 0 acc/);
  });
  assert.equal(v.free, 1);
  const again = v.take("again");
  assert.equal(again.code, 15);
  v.release(again);
  assert.throws(() => v.release(again), /release of ymm15: is free already/);
  assert.throws(() => v.takeMask("m"), /avx2 has none/);
});
