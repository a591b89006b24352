/** @file Placements to start from: how many replicas each expert gets, and where they go at first. */
import type { Layout } from "./layout.ts";

/**
 * Replica counts that make the heaviest replica as light as it can be with `slots` slots: one each,
 * then one more at a time for the expert whose replicas are the heaviest, up to `most` each.
 */
export function waterfill(weight: Float64Array, slots: number, most: number): Int32Array {
  const count = new Int32Array(weight.length).fill(1);
  const share = weight.slice();
  for (let spare = slots - weight.length; spare > 0; spare--) {
    let heaviest = 0;
    for (let e = 1; e < share.length; e++) if (share[e] > share[heaviest]) heaviest = e;
    if (share[heaviest] < 0) break;
    count[heaviest]++;
    share[heaviest] = count[heaviest] < most ? weight[heaviest] / count[heaviest] : -1;
  }
  return count;
}

/**
 * The fewest replicas that make every share at most `target`, at most `most` each; undefined where
 * that takes more than `slots`.
 */
export function minimalCounts(
  weight: Float64Array,
  slots: number,
  most: number,
  target: number,
): Int32Array | undefined {
  const count = new Int32Array(weight.length);
  let used = 0;
  for (let e = 0; e < weight.length; e++) {
    count[e] = Math.min(most, Math.max(1, Math.ceil(weight[e] / target - 1e-9)));
    used += count[e];
  }
  return used <= slots ? count : undefined;
}

/**
 * Deals replicas to GPUs, the heaviest first, each to the least loaded GPU with room and no twin (a
 * twin only where all GPUs with room have one); then gives the slots that are left to whatever
 * relieves the hottest GPU most, or does least harm.
 */
export function deal(layout: Layout, count: Int32Array): void {
  const { field, load, share } = layout;
  const { weight, numGpus, slotsPerGpu } = field;
  layout.clear();
  for (let e = 0; e < weight.length; e++) share[e] = weight[e] / count[e];
  const order = Int32Array.from(weight, (_, e) => e).sort((a, b) => share[b] - share[a] || a - b);
  const used = new Int32Array(numGpus);
  for (const expert of order) {
    for (let replica = 0; replica < count[expert]; replica++) {
      let alone = -1;
      let any = -1;
      for (let gpu = 0; gpu < numGpus; gpu++) {
        if (used[gpu] === slotsPerGpu) continue;
        if (any < 0 || load[gpu] < load[any]) any = gpu;
        if ((alone < 0 || load[gpu] < load[alone]) && layout.replicasOn(expert, gpu) === 0) {
          alone = gpu;
        }
      }
      const gpu = alone < 0 ? any : alone;
      layout.link(gpu * slotsPerGpu + used[gpu]++, expert);
      load[gpu] += share[expert];
    }
  }
  const empty: number[] = [];
  for (let slot = 0; slot < layout.numSlots; slot++) if (layout.expert[slot] < 0) empty.push(slot);
  while (empty.length > 0) fillOne(layout, empty);
}

function fillOne(layout: Layout, empty: number[]): void {
  const { load, gpuOf } = layout;
  let coolest = 0;
  for (let i = 1; i < empty.length; i++) {
    if (load[gpuOf[empty[i]]] < load[gpuOf[empty[coolest]]]) coolest = i;
  }
  const [slot] = empty.splice(coolest, 1);
  const gpu = gpuOf[slot];
  const expert = reliefFor(layout, gpu) ?? lightestFor(layout, gpu);
  layout.add(slot, expert);
}

/** The expert of the hottest GPU whose further replica on `gpu` helps most; undefined where none. */
function reliefFor(layout: Layout, gpu: number): number | undefined {
  const { load, expert, count, field } = layout;
  const hottest = layout.hottest();
  let best: number | undefined;
  let lowest = load[hottest];
  for (let k = 0; k < field.slotsPerGpu; k++) {
    const e = expert[hottest * field.slotsPerGpu + k];
    if (e < 0 || layout.replicasOn(e, gpu) > 0 || !layout.mayGrow(e)) continue;
    const share = field.weight[e] / (count[e] + 1);
    const peak = Math.max(load[hottest] - (layout.share[e] - share), load[gpu] + share);
    if (peak < lowest) [best, lowest] = [e, peak];
  }
  return best;
}

/** The expert whose further replica on `gpu` is the lightest, one without a twin there if possible. */
function lightestFor(layout: Layout, gpu: number): number {
  const { field, count } = layout;
  let best = -1;
  let lightest = Number.POSITIVE_INFINITY;
  for (const twins of [false, true]) {
    for (let e = 0; e < count.length; e++) {
      const share = field.weight[e] / (count[e] + 1);
      if (share >= lightest || !layout.mayGrow(e)) continue;
      if (twins || layout.replicasOn(e, gpu) === 0) [best, lightest] = [e, share];
    }
    if (best >= 0) break;
  }
  return best;
}
