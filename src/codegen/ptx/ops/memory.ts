/**
 * @file Loads, stores, atomics and fences. Weak accesses must be ordered by someone else; relaxed
 * ones are visible but order nothing until a fence stands beside them; acquire and release order.
 */
import type { Actor, Region } from "../emulator/shadow.ts";
import type { Warp } from "../emulator/warp.ts";
import type { MemoryAttributes, Node, Ordering, Scope } from "../ir.ts";
import { type Op, type Step, signature, vector } from "./op.ts";

/** Whether `scope` of block `a` includes block `b`. */
function covers(scope: Scope, a: Warp["cta"], b: Warp["cta"]): boolean {
  if (scope === "cta") return a === b;
  return scope !== "cluster" || a.cluster === b.cluster;
}

const scopes: readonly Scope[] = ["cta", "cluster", "gpu", "sys"];

/** A word was written by an access of this order: what its readers may learn. */
function publish(warp: Warp, key: string, order: Ordering, scope: Scope): void {
  if (order === "weak") return;
  const releases = order === "release" || order === "acq_rel";
  const clock = releases ? warp.clock : warp.releaseFence;
  if (clock === undefined) return;
  const { published } = warp.machine;
  const list = published.get(key) ?? [];
  published.set(key, list);
  list.push({ cta: warp.cta, scope: scopes.indexOf(scope), clock: clock.slice() });
  if (releases) warp.release();
}

/** A word was read by an access of this order: what the warp learns, now or at its next fence. */
function observe(warp: Warp, key: string, order: Ordering, scope: Scope): void {
  if (order === "weak") return;
  for (const entry of warp.machine.published.get(key) ?? []) {
    if (!covers(scopes[entry.scope], entry.cta, warp.cta)) continue;
    if (!covers(scope, warp.cta, entry.cta)) continue;
    const target = order === "relaxed" || order === "release" ? warp.seen : warp.clock;
    for (let i = 0; i < target.length; i++) target[i] = Math.max(target[i], entry.clock[i]);
  }
}

/** Where lane `l` of an access points. */
function locate(step: Step, warp: Warp, l: number, bytes: number) {
  const { space, offset = 0 } = step.attr as Partial<MemoryAttributes>;
  const low = warp.u32[step.s[0] + l] + offset;
  const place: { region: Region; offset: number; cta?: Warp["cta"] } =
    space !== "global"
      ? warp.sharedAt(low, bytes)
      : warp.globalAt(low, warp.u32[step.s[0] + 32 + l], bytes);
  if (place.cta?.mbarriers.has(place.offset & -8)) {
    warp.fault("mbarrier-misuse", `offset ${place.offset} of shared memory is a live mbarrier`);
  }
  if (place.offset % bytes !== 0)
    warp.fault("misaligned", `${bytes} bytes at offset ${place.offset}`);
  return place;
}

const addressLetter = (attr: { space: string }): string => (attr.space === "global" ? "l" : "u");
const xs = (count: number): string => "x".repeat(count);

function qualifiers(attr: MemoryAttributes, verb: "ld" | "st"): string {
  const { space, order, scope, width, bytes, readOnly } = attr;
  const memory = order === "weak" ? "" : `.${order}.${scope}`;
  const nc = readOnly ? ".nc" : "";
  const type = bytes === 2 ? ".u16" : width === 1 ? ".b32" : `.v${width}.b32`;
  return `${verb}${memory}.${space}${nc}${type}`;
}

function place(node: Node<"Load" | "Store">, address: string): string {
  const { offset } = node.attr;
  return `[${address}${offset ? `+${offset}` : ""}]`;
}

/** `dst...` = 1, 2 or 4 words at an address. */
export const Load: Op<"Load"> = {
  verify: signature((attr) => `${xs(attr.width)}<${addressLetter(attr)}`),
  emit(node, e) {
    const at = place(node, e.name(node.src[0]));
    const names = node.dst.map((r) => e.name(r));
    if (node.attr.bytes === 4)
      return e.line(`${qualifiers(node.attr, "ld")} ${vector(names)}, ${at};`);
    e.line("{");
    e.line(".reg .b16 %h;");
    e.line(`${qualifiers(node.attr, "ld")} %h, ${at};`);
    e.line(`cvt.u32.u16 ${names[0]}, %h;`);
    e.line("}");
  },
  exec(step, warp) {
    const { width, order, scope, bytes } = step.attr;
    warp.each((l) => {
      const { region, offset } = locate(step as Step, warp, l, bytes === 2 ? 2 : 4 * width);
      if (bytes === 2) {
        region.noteRead(warp, offset >>> 2, false);
        warp.u32[step.d[0] + l] = region.u16[offset >>> 1];
        return;
      }
      for (let i = 0; i < width; i++) {
        region.noteRead(warp, (offset >>> 2) + i, order !== "weak");
        warp.u32[step.d[i] + l] = region.u32[(offset >>> 2) + i];
      }
      if (order !== "weak") observe(warp, `${region.name}+${offset}`, order, scope);
    });
  },
};

/** Writes 1, 2 or 4 words; operands `address, values...`. */
export const Store: Op<"Store"> = {
  verify: signature((attr) => `<${addressLetter(attr)}${xs(attr.width)}`),
  emit(node, e) {
    const [address, ...names] = node.src.map((r) => e.name(r));
    const at = place(node, address);
    if (node.attr.bytes === 4)
      return e.line(`${qualifiers(node.attr, "st")} ${at}, ${vector(names)};`);
    e.line("{");
    e.line(".reg .b16 %h;");
    e.line(`cvt.u16.u32 %h, ${names[0]};`);
    e.line(`${qualifiers(node.attr, "st")} ${at}, %h;`);
    e.line("}");
  },
  exec(step, warp) {
    const { width, order, scope, bytes } = step.attr;
    warp.each((l) => {
      const { region, offset } = locate(step as Step, warp, l, bytes === 2 ? 2 : 4 * width);
      if (bytes === 2) {
        region.noteWrite(warp, offset >>> 2, false);
        region.u16[offset >>> 1] = warp.u32[step.s[1] + l];
        return;
      }
      for (let i = 0; i < width; i++) {
        region.noteWrite(warp, (offset >>> 2) + i, order !== "weak");
        region.u32[(offset >>> 2) + i] = warp.u32[step.s[1 + i] + l];
      }
      if (order !== "weak") publish(warp, `${region.name}+${offset}`, order, scope);
    });
  },
};

const cell = new Float32Array(1);
const bits = new Uint32Array(cell.buffer);

/** The new value of an atomic function. */
function combine(fn: string, type: string, old: number, value: number, wanted: number): number {
  if (fn === "exch") return value;
  if (fn === "cas") return old === wanted ? value : old;
  if (type === "u32") return fn === "add" ? old + value : Math.max(old, value);
  bits[0] = old;
  const before = cell[0];
  bits[0] = value;
  cell[0] = fn === "add" ? before + cell[0] : Math.max(before, cell[0]);
  return bits[0];
}

/** `dst` = the old value; operands `address, value` or, for `cas`, `address, wanted, value`. */
export const Atomic: Op<"Atomic"> = {
  verify: signature((attr) => `x<${addressLetter(attr)}x${attr.fn === "cas" ? "x" : ""}`),
  emit(node, e) {
    const { space, fn, type, order, scope } = node.attr;
    const kind = fn === "cas" || fn === "exch" ? "b32" : type;
    const [address, ...values] = node.src.map((r) => e.name(r));
    const line = `atom.${order === "weak" ? "relaxed" : order}.${scope}.${space}.${fn}.${kind}`;
    e.line(`${line} ${e.name(node.dst[0])}, [${address}], ${values.join(", ")};`);
  },
  exec(step, warp) {
    const { fn, type, order, scope } = step.attr;
    const isCas = fn === "cas";
    warp.each((l) => {
      const { region, offset } = locate(step as Step, warp, l, 4);
      const word = offset >>> 2;
      const key = `${region.name}+${offset}`;
      region.noteRead(warp, word, true);
      observe(warp, key, order === "weak" ? "relaxed" : order, scope);
      const old = region.u32[word];
      const value = warp.u32[step.s[isCas ? 2 : 1] + l];
      region.noteWrite(warp, word, true);
      region.u32[word] = combine(fn, type, old, value, warp.u32[step.s[1] + l]);
      publish(warp, key, order === "weak" ? "relaxed" : order, scope);
      warp.u32[step.d[0] + l] = old;
    });
  },
};

/** Orders the accesses before it with those after it, or makes writes visible to the async proxy. */
export const Fence: Op<"Fence"> = {
  verify: signature("<"),
  emit(node, e) {
    const { kind, scope } = node.attr;
    if (kind === "acq_rel") e.line(`fence.acq_rel.${scope};`);
    else if (kind === "proxy.async") e.line("fence.proxy.async.shared::cta;");
    else e.line("fence.mbarrier_init.release.cluster;");
  },
  exec(step, warp) {
    const { kind } = step.attr;
    if (kind !== "acq_rel") {
      for (const barrier of warp.cta.unfenced.splice(0)) barrier.fenced = true;
      if (kind === "proxy.async") warp.proxyFence();
      return;
    }
    warp.acquireFrom(warp.seen);
    warp.releaseFence = warp.clock.slice();
    warp.release();
  },
};

/** The element that lane `t` holds of 8 x 8 matrix rows: word `t & 3` of row `t >> 2`. */
function eachMatrixWord(
  step: Pick<Step<"LoadMatrix">, "attr" | "s">,
  warp: Warp,
  visit: (region: Region, half: number, matrix: number, lane: number, upper: number) => void,
): void {
  const { count, transposed } = step.attr;
  for (let m = 0; m < count; m++) {
    for (let t = 0; t < 32; t++) {
      for (let upper = 0; upper < 2; upper++) {
        const fast = (t & 3) * 2 + upper;
        const [row, column] = transposed ? [fast, t >> 2] : [t >> 2, fast];
        const address = warp.u32[step.s[0] + m * 8 + row];
        const { region, offset } = warp.sharedAt(address, 16);
        if (offset % 16 !== 0) warp.fault("misaligned", `a row at shared address ${address}`);
        visit(region, (offset >>> 1) + column, m, t, upper);
      }
    }
  }
}

function matrixName(verb: string, attr: { count: number; transposed: boolean }): string {
  return `${verb}.sync.aligned.m8n8.x${attr.count}${attr.transposed ? ".trans" : ""}.shared.b16`;
}

/** `dst...` = fragments of 1, 2 or 4 matrices of 8 x 8 halves; lanes give addresses of rows. */
export const LoadMatrix: Op<"LoadMatrix"> = {
  verify: signature((attr) => `${"u".repeat(attr.count)}<u`),
  emit(node, e) {
    const names = node.dst.map((r) => e.name(r)).join(", ");
    e.line(`${matrixName("ldmatrix", node.attr)} {${names}}, [${e.name(node.src[0])}];`);
  },
  exec(step, warp) {
    warp.needFullMask("ldmatrix");
    const loaded = new Uint32Array(32 * step.attr.count);
    eachMatrixWord(step, warp, (region, half, m, t, upper) => {
      region.noteRead(warp as Actor, half >>> 1, false);
      loaded[m * 32 + t] |= region.u16[half] << (16 * upper);
    });
    for (let m = 0; m < step.attr.count; m++) {
      warp.u32.set(loaded.subarray(m * 32, m * 32 + 32), step.d[m]);
    }
  },
};

/** Writes fragments of matrices of 8 x 8 halves; operands `row address, fragments...`. */
export const StoreMatrix: Op<"StoreMatrix"> = {
  verify: signature((attr) => `<u${"u".repeat(attr.count)}`),
  emit(node, e) {
    const [address, ...names] = node.src.map((r) => e.name(r));
    e.line(`${matrixName("stmatrix", node.attr)} [${address}], {${names.join(", ")}};`);
  },
  exec(step, warp) {
    warp.needFullMask("stmatrix");
    eachMatrixWord(step, warp, (region, half, m, t, upper) => {
      region.noteWrite(warp as Actor, half >>> 1, false);
      region.u16[half] = warp.u32[step.s[1 + m] + t] >>> (16 * upper);
    });
  },
};
