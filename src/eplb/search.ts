/**
 * @file Local search: steps that relieve the hottest GPU until none is left, then random shakes from
 * the best placement so far. A step is an exchange of two slots, or one slot that changes hands, so
 * that one expert has a replica more and another one fewer. Work is counted, never timed, so that the
 * same input gives the same placement everywhere.
 */
import type { Random } from "../base/index.ts";
import type { Layout } from "./layout.ts";

/** A step must lower the load it looks at by this share, or rounding could make it repeat for ever. */
const least = 1 - 1e-9;

/** Work that may still be done, in looks at a pair of slots. */
export interface Budget {
  left: number;
}

/** One step that relieves the hottest GPU; false if none does. */
export function step(layout: Layout, budget: Budget): boolean {
  const hottest = layout.hottest();
  return exchangeStep(layout, hottest, budget) || changeStep(layout, hottest, budget);
}

/** Steps until the hottest GPU has `target` or less, no step helps, or the budget is spent. */
export function descend(layout: Layout, target: number, budget: Budget): void {
  while (budget.left > 0 && layout.peak() > target && step(layout, budget)) {
    // Each step lowers the load of the hottest GPU.
  }
}

/**
 * Shakes the layout and descends again, over and over, and leaves it at the best placement seen, which
 * is no worse than the one it had.
 */
export function shake(layout: Layout, target: number, budget: Budget, random: Random): void {
  const best = layout.expert.slice();
  let peak = layout.peak();
  for (let round = 0; budget.left > 0 && peak > target; round++) {
    if (round % 3 === 2) changeAtRandom(layout, random);
    exchangeAtRandom(layout, random, 1 + (round % 3));
    budget.left -= layout.numSlots;
    descend(layout, target, budget);
    const now = layout.peak();
    if (now <= peak) {
      peak = now;
      best.set(layout.expert);
    } else {
      layout.assign(best);
    }
  }
  layout.assign(best);
}

/** The exchange with a slot of the hottest GPU that leaves the lower peak on the two; false if none. */
function exchangeStep(layout: Layout, hottest: number, budget: Budget): boolean {
  const { load, expert, share, field } = layout;
  const { numGpus, slotsPerGpu } = field;
  const peak = load[hottest];
  let lowest = peak * least;
  let [from, to] = [-1, -1];
  for (let s = hottest * slotsPerGpu; s < (hottest + 1) * slotsPerGpu; s++) {
    const a = expert[s];
    for (let gpu = 0; gpu < numGpus; gpu++) {
      // Both GPUs end below `lowest` only with a partner that is neither too light nor too heavy.
      if (gpu === hottest || load[gpu] + peak >= 2 * lowest || !layout.mayHold(a, gpu)) continue;
      for (let t = gpu * slotsPerGpu; t < (gpu + 1) * slotsPerGpu; t++) {
        const b = expert[t];
        const less = share[a] - share[b];
        const worse = Math.max(peak - less, load[gpu] + less);
        if (worse >= lowest || !layout.mayHold(b, hottest)) continue;
        if (layout.exchangeFits(a, hottest, b, gpu)) [lowest, from, to] = [worse, s, t];
      }
    }
  }
  budget.left -= numGpus * slotsPerGpu * slotsPerGpu;
  if (from < 0) return false;
  layout.exchange(from, to);
  return true;
}

/** A slot that changes hands. */
interface Change {
  slot: number;
  expert: number;
  peak: number;
}

/** The change of hands that leaves the lowest peak on the GPUs it touches; false if none helps. */
function changeStep(layout: Layout, hottest: number, budget: Budget): boolean {
  const best: Change = { slot: -1, expert: -1, peak: layout.load[hottest] * least };
  giveMore(layout, hottest, best);
  takeAway(layout, hottest, best);
  budget.left -= layout.field.slotsPerGpu * (layout.numSlots + layout.count.length);
  if (best.slot < 0) return false;
  layout.change(best.slot, best.expert);
  return true;
}

/** An expert of the hottest GPU gets a further replica, in a slot elsewhere that another gives up. */
function giveMore(layout: Layout, hottest: number, best: Change): void {
  const { load, expert, count, share, gpuOf, field } = layout;
  const { weight, slotsPerGpu } = field;
  for (let s = hottest * slotsPerGpu; s < (hottest + 1) * slotsPerGpu; s++) {
    const x = expert[s];
    if (!layout.mayGrow(x)) continue;
    const after = weight[x] / (count[x] + 1);
    const relieved = load[hottest] - (share[x] - after) * layout.replicasOn(x, hottest);
    if (relieved >= best.peak) continue;
    for (let slot = 0; slot < layout.numSlots; slot++) {
      const y = expert[slot];
      const gpu = gpuOf[slot];
      if (count[y] < 2 || y === x || gpu === hottest || !layout.mayHold(x, gpu)) continue;
      const more = weight[y] / (count[y] - 1) - share[y];
      const twins = layout.replicasOn(y, gpu) - 1;
      let peak = load[gpu] - share[y] + more * twins + after;
      if (peak >= best.peak) continue;
      peak = Math.max(peak, relieved + more * layout.replicasOn(y, hottest));
      if (peak >= best.peak || !layout.changeFits(x, gpu, y)) continue;
      peak = Math.max(peak, layout.peakOfHolders(y, slot, hottest) + more);
      if (peak < best.peak) Object.assign(best, { slot, expert: x, peak });
    }
  }
}

/** The hottest GPU's replica of one expert gives way to a lighter one of another. */
function takeAway(layout: Layout, hottest: number, best: Change): void {
  const { load, expert, count, share, field } = layout;
  const { weight, slotsPerGpu } = field;
  for (let slot = hottest * slotsPerGpu; slot < (hottest + 1) * slotsPerGpu; slot++) {
    const x = expert[slot];
    if (count[x] < 2) continue;
    const more = weight[x] / (count[x] - 1) - share[x];
    const others = layout.peakOfHolders(x, slot, hottest) + more;
    if (others >= best.peak) continue;
    const rest = load[hottest] - share[x] + more * (layout.replicasOn(x, hottest) - 1);
    for (let z = 0; z < count.length; z++) {
      const peak = Math.max(others, rest + weight[z] / (count[z] + 1));
      if (peak >= best.peak || z === x || !layout.mayHold(z, hottest) || !layout.mayGrow(z))
        continue;
      if (layout.changeFits(z, hottest, x)) Object.assign(best, { slot, expert: z, peak });
    }
  }
}

/** Up to `times` exchanges of random slots, the first with the hottest GPU. */
function exchangeAtRandom(layout: Layout, random: Random, times: number): void {
  const { expert, gpuOf, numSlots, field } = layout;
  const hottest = layout.hottest();
  for (let i = 0; i < times; i++) {
    const s =
      i === 0
        ? hottest * field.slotsPerGpu + random.below(field.slotsPerGpu)
        : random.below(numSlots);
    const t = random.below(numSlots);
    const [a, b] = [expert[s], expert[t]];
    const [x, y] = [gpuOf[s], gpuOf[t]];
    if (x === y || a === b || !layout.mayHold(a, y) || !layout.mayHold(b, x)) continue;
    if (layout.exchangeFits(a, x, b, y)) layout.exchange(s, t);
  }
}

/** One random slot, of an expert with several, goes to a random expert. */
function changeAtRandom(layout: Layout, random: Random): void {
  const { expert, count, gpuOf } = layout;
  for (let attempt = 0; attempt < 20; attempt++) {
    const slot = random.below(layout.numSlots);
    const taker = random.below(count.length);
    const old = expert[slot];
    if (count[old] < 2 || taker === old || !layout.mayGrow(taker)) continue;
    if (!layout.mayHold(taker, gpuOf[slot])) continue;
    if (!layout.changeFits(taker, gpuOf[slot], old)) continue;
    layout.change(slot, taker);
    return;
  }
}
