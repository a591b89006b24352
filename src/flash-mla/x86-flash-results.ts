/**
 * @file The end of a task of `flash-x86`: results divided by the sums of weights and stored as bf16,
 * or as float32 to be combined; logarithms of the sums; largest scores.
 */
import {
  bf16FromPs,
  type Gpr,
  type Mem,
  mem,
  predicate,
  r8,
  r9,
  rax,
  rbp,
  rcx,
  rdi,
  rdx,
  roundToBf16,
  rsi,
  storeWords,
  type Vec,
  type VectorBuilder,
} from "../codegen/index.ts";
import { type FlashShape, rowRecord, taskLayout } from "./x86-flash-layout.ts";
import { emitExp2, loadExp2, scratch } from "./x86-flash-softmax.ts";
import { lnPs } from "./x86-log.ts";

/** Emits it; `row` is a word of scratch memory. */
export function emitResults(v: VectorBuilder, shape: FlashShape, row: Mem): void {
  const { asm } = v;
  emitFactors(v, shape);
  const [record, source, partial, next, stored] = [
    r8,
    rsi,
    asm.label("partial"),
    asm.label("next"),
    asm.label("stored"),
  ];
  asm.mov(row, 0);
  asm.bind(next);
  asm.mov(rax, row);
  asm.imul(record, rax, rowRecord.bytes);
  asm.add(record, scratch);
  const place = (name: keyof typeof rowRecord) =>
    mem(record, { disp: shape.offsets.rows + rowRecord[name] });
  asm.mov(rdi, place("lse"));
  asm.mov(rcx.d, mem(scratch, { index: rax, scale: 4, disp: shape.offsets.lse }).d);
  asm.mov(mem(rdi).d, rcx.d);
  emitMaxLogits(v, shape, place("maxLogits"), rax);
  asm.mov(rdi, place("out"));
  asm.lea(r9, mem(scratch, { index: rax, scale: 4, disp: shape.offsets.factor }));
  asm.imul(source, rax, shape.slabBytes);
  asm.lea(source, mem(scratch, { index: source, disp: shape.offsets.out }));
  asm.cmp(mem(rbp, { disp: taskLayout.partial }), 0);
  asm.jne(partial);
  emitBf16Row(v, shape, { source, target: rdi, factor: mem(r9) });
  asm.jmp(stored);
  asm.bind(partial);
  emitPartialRow(v, shape, { source, target: rdi, factor: mem(r9) });
  asm.bind(stored);
  asm.mov(rax, row);
  asm.inc(rax);
  asm.mov(row, rax);
  asm.cmp(rax, mem(rbp, { disp: taskLayout.rows }));
  asm.jb(next);
}

/** The row's largest score in natural units, where it is asked for. */
function emitMaxLogits(v: VectorBuilder, shape: FlashShape, place: Mem, row: Gpr): void {
  const { asm } = v;
  const none = asm.label("none");
  asm.cmp(mem(rbp, { disp: taskLayout.maxLogits }), 0);
  asm.je(none);
  asm.mov(rdi, place);
  asm.mov(rcx.d, mem(scratch, { index: row, scale: 4, disp: shape.offsets.max }).d);
  asm.mov(mem(rdi).d, rcx.d);
  asm.bind(none);
}

/**
 * Turns `max` into the largest score, and sets `factor` (what results are multiplied by) and `lse`,
 * for all rows: 1 / (sum of rounded weights + e^(sink - max)) and max + ln(sum), 0 and infinity where no key was seen.
 */
function emitFactors(v: VectorBuilder, shape: FlashShape): void {
  const { asm } = v;
  const { offsets, rowsMax, vectorBytes, lanes } = shape;
  const vector = rdx;
  asm.mov(vector, scratch);
  asm.mov(rcx.d, rowsMax / lanes);
  const at = (name: "max" | "sum" | "rounded" | "factor" | "sink" | "lse"): Mem =>
    mem(vector, { disp: offsets[name] });
  const next = asm.here("factors");
  v.scope(() => {
    const [max, sum, factor, seen] = v.take("factors", 4);
    v.load(max, at("max"));
    v.load(sum, at("sum"));
    v.scope(() => {
      const constants = loadExp2(v);
      const sink = v.take("sink");
      v.fill(sink, Math.LOG2E);
      asm.vmulps(factor, sink, at("sink"));
      asm.vsubps(factor, factor, max);
      v.fill(sink, 200);
      asm.vminps(factor, sink, factor);
      emitExp2(v, factor, constants);
      asm.vaddps(factor, factor, at("rounded"));
      v.fill(sink, 1);
      asm.vdivps(factor, sink, factor);
    });
    // NaN counts as seen: it must come through.
    v.zero(seen);
    const isSeen = v.avx512 ? v.takeMask("seen") : undefined;
    if (isSeen) asm.vcmpps(isSeen, sum, seen, predicate.neq);
    else asm.vcmpps(seen, sum, seen, predicate.neq);
    const keep = (value: Vec, otherwise: number): void => {
      v.scope(() => {
        const other = v.take("otherwise");
        v.fill(other, otherwise);
        if (isSeen) asm.vblendmps(value, other, value, { mask: isSeen });
        else asm.vblendvps(value, other, value, seen);
      });
    };
    keep(factor, 0);
    v.store(at("factor"), factor);
    v.fill(factor, Math.LN2);
    asm.vmulps(max, max, factor);
    lnPs(v, sum, sum);
    asm.vaddps(sum, sum, max);
    keep(sum, Number.POSITIVE_INFINITY);
    v.store(at("lse"), sum);
    keep(max, Number.NEGATIVE_INFINITY);
    v.store(at("max"), max);
  });
  asm.add(vector, vectorBytes);
  asm.dec(rcx.d);
  asm.jne(next);
}

/** Where a row's results are, where they go, and their factor. */
interface RowPlaces {
  readonly source: Gpr;
  readonly target: Gpr;
  readonly factor: Mem;
}

/** Stores a row times its factor in the program's own order of dimensions. */
function emitPartialRow(v: VectorBuilder, shape: FlashShape, places: RowPlaces): void {
  const { asm } = v;
  v.scope(() => {
    const [factor, value] = v.take("partial", 2);
    v.broadcast(factor, places.factor);
    asm.mov(rcx.d, shape.slabs);
    const next = asm.here("slab");
    for (let disp = 0; disp < shape.slabBytes; disp += v.vectorBytes) {
      asm.vmulps(value, factor, mem(places.source, { disp }));
      v.store(mem(places.target, { disp }), value);
    }
    asm.add(places.source, shape.rowsMax * shape.slabBytes);
    asm.add(places.target, shape.slabBytes);
    asm.dec(rcx.d);
    asm.jne(next);
  });
}

/** Stores a row times its factor as bf16; a slab's place is `rowsMax` rows behind the one before. */
function emitBf16Row(v: VectorBuilder, shape: FlashShape, places: RowPlaces): void {
  const { asm } = v;
  v.scope(() => {
    const factor = v.take("row");
    v.broadcast(factor, places.factor);
    const whole = Math.floor(shape.headDimV / shape.slabDims);
    const slab = (dims: number) =>
      emitBf16Slab(v, shape, places, dims, (to, place) => asm.vmulps(to, factor, place));
    if (whole > 0) {
      asm.mov(rcx.d, whole);
      const next = asm.here("slab");
      slab(shape.slabDims);
      asm.add(places.source, shape.rowsMax * shape.slabBytes);
      asm.add(places.target, 2 * shape.slabDims);
      asm.dec(rcx.d);
      asm.jne(next);
    }
    if (shape.headDimV > whole * shape.slabDims) slab(shape.headDimV - whole * shape.slabDims);
  });
}

/** Stores `dims` dimensions of a slab as bf16; `load` gets them as float32. */
export function emitBf16Slab(
  v: VectorBuilder,
  shape: Pick<FlashShape, "isDot">,
  { source, target }: Pick<RowPlaces, "source" | "target">,
  dims: number,
  load: (to: Vec, place: Mem) => void,
): void {
  const { asm } = v;
  const step = shape.isDot ? 2 * v.lanes : v.lanes;
  for (let first = 0; first < dims; first += step) {
    const place = mem(source, { disp: 4 * first });
    const to = mem(target, { disp: 2 * first });
    v.scope(() => {
      const [low, high, words] = v.take("bf16", 3);
      const count = Math.min(step, dims - first);
      if (!shape.isDot) {
        load(low, place);
        bf16FromPs(v, words, low);
        storeWords(v, to, v.half(words), count < step ? v.tail(count) : undefined);
        return;
      }
      // Packing within 128-bit lanes undoes what interleaving did.
      load(low, place);
      load(high, place.plus(v.vectorBytes));
      roundToBf16(v, words, low);
      roundToBf16(v, low, high);
      asm.vpackusdw(words, words, low);
      if (count === step) {
        v.store(to, words);
      } else {
        const mask = v.takeMask("dims");
        asm.kmovd(mask, mem(asm.constant(Uint32Array.of(2 ** count - 1))));
        asm.vmovdqu16(to, words, { mask });
      }
    });
  }
}
