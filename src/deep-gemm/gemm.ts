/** @file The product over groups: checks every operand, then hands over to the rung that serves. */
import { assert, assertEqual, ceilDiv } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { blockSize, type Tensor } from "../tensor/index.ts";
import { checkMemory, holdsRows, isCount } from "./checks.ts";
import { PackedMatrix } from "./pack.ts";
import { gemmReference } from "./reference.ts";
import type { GemmGroup } from "./types.ts";
import { launchGemm, prepareLaunch } from "./x86.ts";

/**
 * Writes `d (+)= a b^T` for every group, in one parallel region; see `GemmGroup`. Groups may differ
 * in everything; their `d` must not overlap, nor overlap an operand. **Batch-invariant**: row i of
 * d has the same bits whatever m is and whichever groups share the call, on one instruction set.
 * Products are summed in float32 in the order of k (the reference rung: float64); FP8 sums 128 of
 * k, scales the sum by both scales' product and adds it to the total.
 */
export function gemm(device: Device, groups: readonly GemmGroup[]): void {
  assert(Array.isArray(groups), () => `groups: got ${typeof groups}, wanted an array`);
  for (let i = 0; i < groups.length; i++) checkGroup(groups[i], i);
  if (device.isa === undefined) {
    for (const group of groups) gemmReference(group, group.b as PackedMatrix);
  } else {
    launchGemm(device, device.isa, groups);
  }
}

/** A product that has been checked and whose arguments are written. */
export interface PreparedGemm {
  /** Computes it from what the operands hold now. */
  run(): void;
}

/**
 * The product that `gemm` would compute, checked and laid out once, to be run any number of times
 * on the same memory: a run costs what entering machine code does. Operands are kept alive.
 */
export function prepareGemm(device: Device, groups: readonly GemmGroup[]): PreparedGemm {
  assert(Array.isArray(groups), () => `groups: got ${typeof groups}, wanted an array`);
  const kept = groups.map((group, i) => {
    checkGroup(group, i);
    return { ...group };
  });
  if (device.isa === undefined) return { run: () => gemm(device, kept) };
  return new KeptLaunch(prepareLaunch(device, device.isa, kept), kept);
}

/** A launch with what it refers to by address only. */
class KeptLaunch implements PreparedGemm {
  private readonly launch: PreparedGemm;
  /** Never read: it keeps the operands' memory. */
  protected readonly groups: readonly GemmGroup[];

  constructor(launch: PreparedGemm, groups: readonly GemmGroup[]) {
    this.launch = launch;
    this.groups = groups;
  }

  run(): void {
    this.launch.run();
  }
}

function checkGroup(group: GemmGroup, index: number): void {
  const name = (what: string) => `groups[${index}].${what}`;
  assert(isObject(group) && isObject(group.a), () => `${name("a")}: got none, wanted activations`);
  const { a, m, b, d } = group;
  assert(b instanceof PackedMatrix, () => `${name("b")}: got other than packWeights returns`);
  if (a.type !== b.activation) assertEqual(a.type, b.activation, name("a.type"));
  assert(isCount(m), () => `${name("m")}: got ${m}, wanted a count`);
  const { k, width } = b;
  const { values } = a;
  assert(isObject(values) && isObject(d), () => `${name("a.values and d")}: wanted tensors`);
  if (values.dtype !== (a.type === "f32" ? "f32" : "bf16")) {
    assertEqual(values.dtype as string, a.type === "f32" ? "f32" : "bf16", name("a.values.dtype"));
  }
  checkRows(values, m, k, k, name, "a.values");
  if (a.type === "f8e4m3") {
    const blocks = ceilDiv(k, blockSize);
    assert(isObject(a.scales), () => `${name("a.scales")}: got none, wanted a tensor`);
    if (a.scales.dtype !== "f32") assertEqual(a.scales.dtype as string, "f32", name("a.scales"));
    checkRows(a.scales, m, blocks, blocks, name, "a.scales");
  }
  if (d.dtype !== "f32") assertEqual(d.dtype as string, "f32", name("d.dtype"));
  checkRows(d, m, width, Number.POSITIVE_INFINITY, name, "d");
}

/** `tensor` is `[m or more, least to most]`, and its memory holds m rows of the least width. */
function checkRows(
  tensor: Tensor,
  m: number,
  least: number,
  most: number,
  name: (what: string) => string,
  what: string,
): void {
  const { shape } = tensor;
  const columns = shape?.[1];
  assert(
    shape?.length === 2 && shape[0] >= m && columns >= least && columns <= most,
    () =>
      `shape of ${name(what)}: got [${shape}], wanted [${m} or more, ${least}${
        most === least ? "" : " or more"
      }]`,
  );
  if (!holdsRows(tensor, m, least)) checkMemory(name(what), tensor, m, least);
}

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null;
}
