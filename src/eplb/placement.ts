/** @file From the expert in each slot to the other maps, and to loads. */
import type { Loads, Placement } from "./types.ts";

/**
 * The three maps of a placement. Replicas of an expert are listed in `replica` order where that is
 * given (`[layers][slots]`, each expert's replicas numbered from 0), else by slot.
 */
export function placementOf(
  phy2log: readonly ArrayLike<number>[],
  numExperts: number,
  replica?: readonly ArrayLike<number>[],
): Placement {
  const logcnt = phy2log.map((row) => {
    const counts = new Array<number>(numExperts).fill(0);
    for (let slot = 0; slot < row.length; slot++) counts[row[slot]]++;
    return counts;
  });
  const most = logcnt.reduce((max, row) => row.reduce((x, y) => Math.max(x, y), max), 0);
  const log2phy = phy2log.map((row, layer) => {
    const slots = Array.from({ length: numExperts }, () => new Array<number>(most).fill(-1));
    const seen = new Int32Array(numExperts);
    for (let slot = 0; slot < row.length; slot++) {
      const expert = row[slot];
      slots[expert][replica ? replica[layer][slot] : seen[expert]++] = slot;
    }
    return slots;
  });
  return { phy2log: phy2log.map((row) => Array.from(row)), log2phy, logcnt };
}

/** The load of each GPU where an expert's replicas share its load equally, `[layers][numGpus]`. */
export function gpuLoads(
  weight: Loads,
  phy2log: readonly ArrayLike<number>[],
  numGpus: number,
): Float64Array[] {
  return phy2log.map((row, layer) => layerLoads(weight[layer], row, numGpus));
}

/** The same for one layer. */
export function layerLoads(
  weight: ArrayLike<number>,
  phy2log: ArrayLike<number>,
  numGpus: number,
): Float64Array {
  const counts = new Int32Array(weight.length);
  for (let slot = 0; slot < phy2log.length; slot++) counts[phy2log[slot]]++;
  const loads = new Float64Array(numGpus);
  const slotsPerGpu = phy2log.length / numGpus;
  for (let gpu = 0; gpu < numGpus; gpu++) {
    for (let slot = gpu * slotsPerGpu; slot < (gpu + 1) * slotsPerGpu; slot++) {
      loads[gpu] += weight[phy2log[slot]] / counts[phy2log[slot]];
    }
  }
  return loads;
}

/** The largest of `loads` over their mean; 1 where all are 0. */
export function maxOverMean(loads: ArrayLike<number>): number {
  let [max, sum] = [0, 0];
  for (let i = 0; i < loads.length; i++) {
    max = Math.max(max, loads[i]);
    sum += loads[i];
  }
  return sum === 0 ? 1 : (max * loads.length) / sum;
}
