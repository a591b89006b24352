/**
 * @file Designs that look the same from every node: a few base blocks modulo v, each shifted by 0 to
 * v-1. A pair's count depends only on its difference, so that evenness is a matter of k (k-1) differences
 * a base block instead of v (v-1) / 2 pairs. Where they come out all equal, the design is a balanced
 * incomplete block design (Bose 1939).
 */
import type { Random } from "../../base/index.ts";

/** The base blocks found, and whether every difference is as frequent as every other can be. */
interface BaseBlocks {
  readonly blocks: number[][];
  readonly isEven: boolean;
}

/** Searches for `count` base blocks of `size` modulo `v` with even differences, in `steps` tries. */
export function searchBaseBlocks(
  v: number,
  size: number,
  count: number,
  random: Random,
  steps: number,
): BaseBlocks {
  const frequency = new Int32Array(v);
  const blocks = Array.from({ length: count }, () => drawBlock(v, size, random));
  const note = (block: readonly number[], element: number, by: number): void => {
    for (const other of block) {
      if (other === element) continue;
      frequency[(element - other + v) % v] += by;
      frequency[(other - element + v) % v] += by;
    }
  };
  for (const block of blocks) {
    for (const [i, element] of block.entries()) note(block.slice(0, i), element, 1);
  }
  const ideal = (count * size * (size - 1)) / (v - 1);
  const energyOf = (): number => {
    let energy = 0;
    for (let d = 1; d < v; d++) energy += (frequency[d] - ideal) ** 2;
    return energy;
  };
  const share = ideal % 1;
  const least = (v - 1) * share * (1 - share) + 1e-6;
  let energy = energyOf();
  for (let step = 0; step < steps && energy > least; step++) {
    const block = blocks[random.below(count)];
    const place = random.below(size);
    const [before, after] = [block[place], random.below(v)];
    if (block.includes(after)) continue;
    note(block, before, -1);
    block[place] = after;
    note(block, after, 1);
    const next = energyOf();
    const temperature = 3 * (1 - step / steps) ** 2 + 0.05;
    if (next <= energy || random.uniform() < Math.exp((energy - next) / temperature)) {
      energy = next;
      continue;
    }
    note(block, after, -1);
    block[place] = before;
    note(block, before, 1);
  }
  return { blocks, isEven: energy <= least };
}

/** Every shift of every base block. */
export function develop(blocks: readonly (readonly number[])[], v: number): number[][] {
  return blocks.flatMap((block) =>
    Array.from({ length: v }, (_, shift) => block.map((element) => (element + shift) % v)),
  );
}

function drawBlock(v: number, size: number, random: Random): number[] {
  const block = new Set<number>([0]);
  while (block.size < size) block.add(random.below(v));
  return [...block];
}
