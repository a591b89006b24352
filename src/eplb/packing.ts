/** @file Greedy packing into packs of equal size, heaviest first, as the exact mode does it. */

/** The indices of `values` from the largest value to the smallest, equal ones in their order. */
export function sortDescending(values: Float32Array): Int32Array {
  const order = Int32Array.from(values, (_, index) => index);
  return order.sort((a, b) => values[b] - values[a] || a - b);
}

/**
 * Deals items in `order` into `numPacks` packs of equal size, each to the lightest pack with room,
 * the first of several. Returns each item's place: pack times size plus its rank in the pack.
 */
export function packItems(weight: Float32Array, numPacks: number, order: Int32Array): Int32Array {
  const size = weight.length / numPacks;
  const place = new Int32Array(weight.length);
  if (size === 1) return place.map((_, item) => item);
  const sums = new Float32Array(numPacks);
  const counts = new Int32Array(numPacks);
  for (const item of order) {
    let lightest = -1;
    for (let pack = 0; pack < numPacks; pack++) {
      if (counts[pack] < size && (lightest < 0 || sums[pack] < sums[lightest])) lightest = pack;
    }
    place[item] = lightest * size + counts[lightest]++;
    sums[lightest] += weight[item];
  }
  return place;
}

/** Deals groups of experts to nodes by their summed loads; returns the experts, node by node. */
export function packGroups(weight: Float32Array, numGroups: number, numNodes: number): Int32Array {
  const groupSize = weight.length / numGroups;
  const sums = new Float32Array(numGroups);
  for (let group = 0; group < numGroups; group++) {
    let sum = 0;
    for (let i = 0; i < groupSize; i++) sum += weight[group * groupSize + i];
    sums[group] = sum;
  }
  const place = packItems(sums, numNodes, sortDescending(sums));
  const members = new Int32Array(weight.length);
  for (let group = 0; group < numGroups; group++) {
    for (let i = 0; i < groupSize; i++) {
      members[place[group] * groupSize + i] = group * groupSize + i;
    }
  }
  return members;
}
