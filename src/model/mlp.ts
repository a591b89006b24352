/**
 * @file Gated MLPs and the mixture of experts. Experts' weights are plain MLP weights; a launch runs
 * all the experts of a layer that got tokens, the shared ones with them.
 * Source: DeepSeek-V3 (arXiv 2412.19437, 2.1.2).
 */
import { type Activations, type GemmGroup, gemm, type PackedWeights } from "../deep-gemm/index.ts";
import {
  castRows,
  combineExperts,
  type GateConfig,
  gatherRows,
  routeTokens,
  type Sink,
  swiglu,
} from "../elementwise/index.ts";
import { columnsOf, rowsOf, type Tensor } from "../tensor/index.ts";
import { column, type Pass } from "./pass.ts";
import { rowsOfSink } from "./workspace.ts";

/** One gated MLP: down(silu(gate x) * up x). */
export interface MlpWeights {
  /** Parts [gate, up]. */
  readonly gateUp: PackedWeights;
  readonly down: PackedWeights;
}

/** A dense layer's MLP. */
export class DenseMlp {
  private readonly weights: MlpWeights;

  constructor(weights: MlpWeights) {
    this.weights = weights;
  }

  /** Adds the MLP of `normed` `[tokens, hidden]` to `x`. */
  begin(pass: Pass, normed: Tensor<"f32">, x: Tensor<"f32">): void {
    const { device, workspace, tokens } = pass;
    const { gateUp, down } = this.weights;
    const input = workspace.sink("mlp.input", tokens, gateUp.k, gateUp.activation);
    castRows(device, normed, tokens, input);
    const hidden = workspace.tensor("mlp.hidden", "f32", tokens, gateUp.width);
    gemm(device, [{ a: input, m: tokens, b: gateUp, d: hidden }]);
    const gated = workspace.sink("mlp.gated", tokens, down.k, down.activation);
    swiglu(device, partOf(hidden, gateUp, 0), partOf(hidden, gateUp, 1), tokens, gated);
    gemm(device, [{ a: gated, m: tokens, b: down, d: x, accumulate: true }]);
  }
}

/** Which tokens go to which expert: slots sorted by expert, in token order inside each. */
interface Dispatch {
  /** First slot of each expert, and the total. */
  readonly starts: Int32Array;
  /** int32 `[slots]`: the token of each slot. */
  readonly tokenOf: Tensor<"i32">;
  /** int32 `[tokens, topK]`: the slot of each choice. */
  readonly slotOf: Tensor<"i32">;
  /** float32 `[tokens, topK]`. */
  readonly weights: Tensor<"f32">;
}

/** A mixture-of-experts layer's MLP. */
export class MixtureOfExperts {
  private readonly gate: GateConfig;
  private readonly gateWeight: PackedWeights;
  private readonly experts: readonly MlpWeights[];
  private readonly shared: MlpWeights | undefined;
  /** float64 `[experts]`: tokens routed to each, ever increasing. */
  readonly load: Float64Array;

  constructor(
    gate: GateConfig,
    gateWeight: PackedWeights,
    experts: readonly MlpWeights[],
    shared: MlpWeights | undefined,
    load: Float64Array,
  ) {
    this.gate = gate;
    this.gateWeight = gateWeight;
    this.experts = experts;
    this.shared = shared;
    this.load = load;
  }

  /**
   * What does not depend on which experts are chosen, for `normed` `[tokens, hidden]`: the gate's
   * logits, and the experts' input.
   */
  begin(pass: Pass, normed: Tensor<"f32">, _x: Tensor<"f32">): void {
    const { device, tokens } = pass;
    const a = { type: "f32", values: normed } as const;
    gemm(device, [{ a, m: tokens, b: this.gateWeight, d: this.logitsOf(pass) }]);
    castRows(device, normed, tokens, this.inputOf(pass));
  }

  private logitsOf({ workspace, tokens }: Pass): Tensor<"f32"> {
    return workspace.tensor("moe.logits", "f32", tokens, this.gate.numExperts);
  }

  private inputOf({ workspace, tokens }: Pass): Sink {
    const { gateUp } = this.experts[0];
    return workspace.sink("mlp.input", tokens, gateUp.k, gateUp.activation);
  }

  /** Adds the chosen and the shared experts' outputs to `x`, behind `begin`. */
  finish(pass: Pass, x: Tensor<"f32">): void {
    const { device, workspace, tokens } = pass;
    const { gateUp, down } = this.experts[0];
    const dispatch = this.dispatch(pass);
    const slots = tokens * this.gate.topK;
    const input = this.inputOf(pass);
    const routed = this.permute(pass, input, dispatch, slots);

    const hidden = workspace.tensor("moe.hidden", "f32", slots, gateUp.width);
    const sharedHidden =
      this.shared && workspace.tensor("moe.sharedHidden", "f32", tokens, this.shared.gateUp.width);
    const up = this.groups(dispatch, routed, (expert) => expert.gateUp, hidden);
    if (this.shared && sharedHidden) {
      up.push({ a: input, m: tokens, b: this.shared.gateUp, d: sharedHidden });
    }
    gemm(device, up);

    const gated = workspace.sink("moe.gated", slots, down.k, down.activation);
    swiglu(device, partOf(hidden, gateUp, 0), partOf(hidden, gateUp, 1), slots, gated);
    const y = workspace.tensor("moe.y", "f32", slots, down.width);
    const downGroups = this.groups(dispatch, gated, (expert) => expert.down, y);
    const sharedY = this.shared && workspace.tensor("moe.sharedY", "f32", tokens, down.width);
    if (this.shared && sharedHidden && sharedY) {
      const { gateUp: wide, down: b } = this.shared;
      const a = workspace.sink("moe.sharedGated", tokens, b.k, b.activation);
      swiglu(device, partOf(sharedHidden, wide, 0), partOf(sharedHidden, wide, 1), tokens, a);
      downGroups.push({ a, m: tokens, b, d: sharedY });
    }
    gemm(device, downGroups);
    combineExperts(device, {
      y,
      slotOf: dispatch.slotOf,
      weights: dispatch.weights,
      ...(sharedY && { shared: sharedY }),
      tokens,
      to: x,
    });
  }

  private dispatch(pass: Pass): Dispatch {
    const { device, workspace, tokens } = pass;
    const { numExperts, topK } = this.gate;
    const logits = this.logitsOf(pass);
    const ids = workspace.tensor("moe.ids", "i32", tokens, topK);
    const weights = workspace.tensor("moe.weights", "f32", tokens, topK);
    routeTokens(device, { config: this.gate, logits, tokens, ids, weights });
    const starts = new Int32Array(numExperts + 1);
    const slots = tokens * topK;
    for (let i = 0; i < slots; i++) starts[ids.data[i] + 1]++;
    for (let e = 0; e < numExperts; e++) {
      this.load[e] += starts[e + 1];
      starts[e + 1] += starts[e];
    }
    const next = starts.slice();
    const tokenOf = column(workspace, "moe.tokenOf", slots);
    const slotOf = workspace.tensor("moe.slotOf", "i32", tokens, topK);
    for (let i = 0; i < slots; i++) {
      const slot = next[ids.data[i]]++;
      slotOf.data[i] = slot;
      tokenOf.data[slot] = Math.floor(i / topK);
    }
    return { starts, tokenOf, slotOf, weights };
  }

  /** The tokens' activations in slot order: each expert's rows lie together. */
  private permute(pass: Pass, input: Sink, dispatch: Dispatch, slots: number): Sink {
    const { device, workspace } = pass;
    const { gateUp } = this.experts[0];
    const routed = workspace.sink("moe.input", slots, gateUp.k, gateUp.activation);
    const whole = (sink: Sink) =>
      ({ ...sink.values, shape: [sink.values.shape[0], sink.values.stride] }) as Tensor<"bf16">;
    gatherRows(device, whole(input), dispatch.tokenOf, slots, whole(routed));
    if (input.type === "f8e4m3" && routed.type === "f8e4m3") {
      gatherRows(device, input.scales, dispatch.tokenOf, slots, routed.scales);
    }
    return routed;
  }

  private groups(
    { starts }: Dispatch,
    input: Sink,
    weightsOf: (expert: MlpWeights) => PackedWeights,
    to: Tensor<"f32">,
  ): GemmGroup[] {
    const groups: GemmGroup[] = [];
    for (let e = 0; e < this.experts.length; e++) {
      const [from, until] = [starts[e], starts[e + 1]];
      if (from === until) continue;
      groups.push({
        a: rowsOfSink(input, from, until) as Activations,
        m: until - from,
        b: weightsOf(this.experts[e]),
        d: rowsOf(to, from, until),
      });
    }
    return groups;
  }
}

function partOf(rows: Tensor<"f32">, weights: PackedWeights, part: number): Tensor<"f32"> {
  const start = weights.columns[part];
  return columnsOf(rows, start, start + weights.parts[part]);
}
