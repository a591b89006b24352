/**
 * @file Balancing beyond the exact mode. Layer by layer: groups to nodes so that the heaviest node is
 * as light as can be; then per node, heaviest first, replica counts and places by several starts
 * (waterfilled counts; the fewest counts that reach a target, the other slots left to relieve the
 * hottest GPU) and local search. The exact mode's plan is computed too, and the better one returned.
 */
import { Random } from "../base/index.ts";
import { type Bound, lowerBound, PairBound } from "./bounds.ts";
import { checkAffinity, checkNumber, type Shape, shapeOf } from "./errors.ts";
import { exactLayer } from "./exact.ts";
import { dealGroups } from "./groups.ts";
import { type Field, type Homes, Layout } from "./layout.ts";
import { packGroups } from "./packing.ts";
import { layerLoads, maxOverMean, placementOf } from "./placement.ts";
import { type Budget, descend, shake } from "./search.ts";
import { homesOf, polishTwins, searchField, searchNodes } from "./starts.ts";
import type { Affinity, BalancedPlacement, BalanceOptions, LayerReport, Loads } from "./types.ts";

/** Looks at pairs of slots that one layer may cost at effort 1; about 1 ms for 288 slots on 72 GPUs. */
function looksOf(shape: Shape, effort: number): number {
  return Math.max(150_000, 5 * shape.numReplicas * shape.numGpus) * effort;
}

/** Where a node counts as balanced: its bound and this much more. */
const tolerance = 1e-5;

/**
 * A placement whose busiest GPU has, in every layer, no more than under `rebalanceExperts`, and mostly
 * less; with each layer's ratio, a lower bound and what binds. Arguments as for `rebalanceExperts`.
 * Deterministic. Two replicas of an expert share a GPU only where that is unavoidable or lowers the peak.
 * Cost: about 2 ms a layer of 256 experts and 288 slots at effort 1. Throws a `BaleenError` that names
 * the field which is wrong.
 */
export function balanceExperts(
  weight: Loads,
  numReplicas: number,
  numGroups: number,
  numNodes: number,
  numGpus: number,
  options: BalanceOptions = {},
): BalancedPlacement {
  const shape = shapeOf(weight, numReplicas, numGroups, numNodes, numGpus);
  const { effort = 1, affinity = shape.hierarchical ? "strict" : "global" } = options;
  checkAffinity(affinity, shape);
  checkNumber("effort", effort, 0);
  const balancer = new Balancer(shape, affinity, effort);
  const plans = weight.map((loads) => balancer.plan(Float64Array.from(loads)));
  const layers = plans.map((plan) => plan.report);
  return {
    ...placementOf(
      plans.map((plan) => plan.expert),
      shape.numExperts,
    ),
    maxOverMean: layers.map((layer) => layer.maxOverMean),
    layers,
  };
}

/** What the balancer found for a layer. */
interface LayerPlan {
  /** The expert in each slot. */
  readonly expert: Int32Array;
  readonly report: LayerReport;
}

/** Balances layers of one shape one after the other. */
class Balancer {
  private readonly shape: Shape;
  private readonly affinity: Affinity;
  private readonly effort: number;
  private readonly pairs: PairBound = new PairBound();

  constructor(shape: Shape, affinity: Affinity, effort: number) {
    this.shape = shape;
    this.affinity = affinity;
    this.effort = effort;
  }

  /** Plans one layer. */
  plan(weight: Float64Array): LayerPlan {
    const { shape, affinity } = this;
    const { numGpus } = shape;
    const total = weight.reduce((sum, load) => sum + load, 0);
    const mean = total / numGpus || 1;
    const bound = this.bound(weight);
    const exact = exactLayer(weight, shape, shape.hierarchical && affinity !== "global").phy2log;
    const exactPeak = peakOf(weight, exact, numGpus);
    const budget = { left: looksOf(shape, this.effort) };
    let expert = this.search(weight, bound.load, budget);
    if (peakOf(weight, expert, numGpus) > exactPeak) {
      expert = polishTwins(this.homedField(weight), exact, bound.load, budget);
    }
    const ours = peakOf(weight, expert, numGpus);
    const source = ours < exactPeak || total === 0 ? "balanced" : "exact";
    if (source === "exact") expert = exact;
    const report = {
      maxOverMean: maxOverMean(layerLoads(weight, expert, numGpus)),
      exactMaxOverMean: maxOverMean(layerLoads(weight, exact, numGpus)),
      lowerBound: total === 0 ? 1 : bound.load / mean,
      limit: bound.limit,
      reason: reasonOf(bound, mean, shape),
      source,
    } as const;
    return { expert, report };
  }

  private bound(weight: Float64Array): Bound {
    const { shape, affinity } = this;
    const simple = lowerBound(weight, shape, affinity === "strict" && shape.numNodes > 1);
    if (shape.slotsPerGpu !== 2) return simple;
    const rounds = Math.ceil(60 * this.effort);
    const load = this.pairs.load(weight, shape.numReplicas, simple.load, rounds);
    return load > simple.load * 1.0005 ? { load, limit: "slots" } : simple;
  }

  private field(weight: Float64Array, homes?: Homes): Field {
    const { numGpus, slotsPerGpu } = this.shape;
    return { weight, numGpus, slotsPerGpu, ...(homes && { homes }) };
  }

  /** The field with homes as the exact mode deals them, where replicas must stay at home. */
  private homedField(weight: Float64Array): Field {
    const { shape, affinity } = this;
    if (affinity === "global" || shape.numNodes === 1) return this.field(weight);
    const members = packGroups(Float32Array.from(weight), shape.numGroups, shape.numNodes);
    return this.field(weight, homesOf(members, shape, 0));
  }

  private search(weight: Float64Array, bound: number, budget: Budget): Int32Array {
    const { shape, affinity } = this;
    if (affinity === "global" || shape.numNodes === 1) {
      const layout = new Layout(this.field(weight));
      searchField(layout, bound * (1 + tolerance), budget);
      return layout.expert;
    }
    const members = dealGroups(weight, shape);
    const strict = searchNodes(weight, members, shape, bound, budget);
    if (affinity === "strict") return strict;
    const homes = homesOf(members, shape, affinity.spill);
    const layout = new Layout(this.field(weight, homes));
    layout.assign(strict);
    budget.left += looksOf(shape, this.effort);
    descend(layout, bound, budget);
    shake(layout, bound * (1 + tolerance), budget, new Random(1));
    return layout.expert.slice();
  }
}

function peakOf(weight: Float64Array, expert: Int32Array, numGpus: number): number {
  return layerLoads(weight, expert, numGpus).reduce((peak, load) => Math.max(peak, load), 0);
}

function reasonOf(bound: Bound, mean: number, shape: Shape): string {
  const times = `${(bound.load / mean).toFixed(3)} times the mean`;
  switch (bound.limit) {
    case "mean":
      return "Nothing but the mean load bounds it.";
    case "node":
      return `The busiest node's groups bring its GPUs to ${times}: let replicas spill, or go global.`;
    case "replicas":
      return `One replica of expert ${bound.expert} carries ${times}: raise numReplicas.`;
    case "slots":
      return (
        `With ${shape.slotsPerGpu} slots a GPU heavy replicas find no light partner below ${times}: ` +
        "raise numReplicas."
      );
  }
}
