/** @file Greedy packing into packs of equal size, heaviest first, as the exact mode does it. */

/** The indices of `values`, none negative, from the largest value to the smallest, equal ones in order. */
export function sortDescending(values: Float32Array): Int32Array {
  // The bits of floats that are not negative sort as the floats do. With the index below them they
  // make a key that a double holds, and keys sort without a comparator.
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const size = values.length;
  const keys = new Float64Array(size);
  for (let i = 0; i < size; i++) keys[i] = (0x7fffffff - (bits[i] & 0x7fffffff)) * size + i;
  keys.sort();
  const order = new Int32Array(size);
  for (let i = 0; i < size; i++) order[i] = keys[i] % size;
  return order;
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
  // A heap of the packs with room, the lightest on top; all are empty, so any order will do at first.
  const heap = Int32Array.from({ length: numPacks }, (_, pack) => pack);
  let length = numPacks;
  for (let i = 0; i < order.length; i++) {
    const item = order[i];
    const pack = heap[0];
    place[item] = pack * size + counts[pack]++;
    sums[pack] += weight[item];
    const moved = counts[pack] === size ? heap[--length] : pack;
    sink(heap, length, moved, sums);
  }
  return place;
}

/** Puts `pack` on top of the heap and lets it sink to where it belongs. */
function sink(heap: Int32Array, length: number, pack: number, sums: Float32Array): void {
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= length) break;
    if (child + 1 < length && isBefore(heap[child + 1], heap[child], sums)) child++;
    if (!isBefore(heap[child], pack, sums)) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = pack;
}

function isBefore(a: number, b: number, sums: Float32Array): boolean {
  return sums[a] < sums[b] || (sums[a] === sums[b] && a < b);
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
