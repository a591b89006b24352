/**
 * @file One phase, to be tried: its load and its lengths under the reader's hand, estimated anew in the
 * browser by the planner itself. A layer's two lanes, drawn as in the article's figures: computation above, communication below,
 * one colour an operation, the second micro-batch lighter; what the layer's time goes into beside it.
 */
import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";
import {
  estimateDecode,
  estimatePrefill,
  type PhaseReport,
  type TimedOperation,
} from "../../../planner/index.ts";
import { Slider } from "../fields.tsx";
import { short } from "../format.ts";

const width = 960;
const left = 124;
const laneHeight = 40;
const gap = 8;
const top = 22;
/** Layers shown beside each other, so that what crosses a layer's end is seen whole. */
const layersShown = 2;

/** Names in a block, the longest that fits. */
const names: Readonly<Record<string, readonly string[]>> = {
  attention: ["ATTENTION", "ATTN", "A"],
  "attention-0": ["ATTENTION-0", "ATTN-0", "A-0"],
  "attention-1": ["ATTENTION-1", "ATTN-1", "A-1"],
  shared: ["SHARED", "SH", "S"],
  mlp: ["MLP", "M"],
  dispatch: ["DISPATCH", "DISP", "D"],
  combine: ["COMBINE", "COMB", "C"],
};

/** The phase with another load and prompt; a sentence where that can't be. */
function estimateAgain(
  phase: PhaseReport,
  load: number,
  promptTokens: number,
): PhaseReport | string {
  const { deployment, name } = phase;
  const workload = { ...phase.workload, promptTokens };
  try {
    const estimate =
      name === "Prefill"
        ? estimatePrefill(deployment, workload, load)
        : estimateDecode(deployment, workload, load);
    const { perNode, bottleneck, memory, step } = estimate;
    const latencyMs = "ttftMs" in estimate ? estimate.ttftMs : estimate.tpotMs;
    const { layer, parts } = step;
    return { ...phase, perNode, latencyMs, bottleneck: bottleneck.sentence, layer, parts, memory };
  } catch (error) {
    return (error as Error).message;
  }
}

/** One phase. */
export function Lanes({ phase }: { phase: PhaseReport }): JSX.Element {
  const [load, setLoad] = useState(phase.load);
  const [prompt, setPrompt] = useState(phase.workload.promptTokens);
  const shown = useMemo(() => {
    if (load === phase.load && prompt === phase.workload.promptTokens) return phase;
    return estimateAgain(phase, load, prompt);
  }, [phase, load, prompt]);
  const isPrefill = phase.name === "Prefill";
  return (
    <div class="phase">
      <h3>
        {phase.name} <small>{phase.unit}</small>
      </h3>
      <div class="tries">
        <Slider
          label={isPrefill ? "Tokens a GPU and step" : "Sequences a GPU"}
          value={load}
          min={isPrefill ? 1024 : 8}
          max={Math.max(phase.load, isPrefill ? 32768 : 256)}
          step={isPrefill ? 1024 : 8}
          shown={load.toLocaleString("en-US")}
          onChange={setLoad}
        />
        <Slider
          label="Tokens of a prompt"
          value={prompt}
          min={256}
          max={Math.max(phase.workload.promptTokens, 32768)}
          step={256}
          shown={prompt.toLocaleString("en-US")}
          onChange={setPrompt}
        />
      </div>
      {typeof shown === "string" ? (
        <p class="refusal" role="alert">
          {shown}
        </p>
      ) : (
        <Result phase={shown} />
      )}
    </div>
  );
}

function Result({ phase }: { phase: PhaseReport }): JSX.Element {
  const { layer } = phase;
  const isPrefill = phase.name === "Prefill";
  return (
    <>
      <p class="readout">
        {short(phase.perNode)} tokens/s a node, {isPrefill ? "TTFT" : "TPOT"}{" "}
        {phase.latencyMs < 1000
          ? `${phase.latencyMs.toFixed(1)} ms`
          : `${(phase.latencyMs / 1e3).toFixed(2)} s`}
        . Bottleneck: {phase.bottleneck}.
      </p>
      <div class="scroll">
        <Timeline phase={phase} />
      </div>
      <Shares parts={phase.parts} periodUs={layer.periodUs} />
      <Memory memory={phase.memory} />
    </>
  );
}

function Timeline({ phase }: { phase: PhaseReport }): JSX.Element {
  const { layer, name } = phase;
  const { periodUs } = layer;
  const scale = (width - left) / (periodUs * layersShown);
  const height = top + 2 * laneHeight + gap + 22;
  const copies = Array.from({ length: layersShown + 1 }, (_, copy) => (copy - 1) * periodUs);
  const ticks = Array.from({ length: layersShown + 1 }, (_, i) => i * periodUs);
  return (
    <svg
      class="lanes"
      viewBox={`0 0 ${width} ${height}`}
      role="img"
      aria-label={`${name}: a layer takes ${ms(periodUs)}, of which compute waits ${ms(layer.exposedUs)}`}
    >
      <defs>
        <clipPath id={`clip-${name}`}>
          <rect x={left} y={top} width={width - left} height={2 * laneHeight + gap} />
        </clipPath>
      </defs>
      {["Computation", "Communication"].map((lane, row) => (
        <g key={lane}>
          <text class="lane" x={left - 10} y={top + row * (laneHeight + gap) + 25}>
            {lane}
          </text>
          <rect
            class="ground"
            x={left}
            y={top + row * (laneHeight + gap)}
            width={width - left}
            height={laneHeight}
          />
        </g>
      ))}
      <g clip-path={`url(#clip-${name})`}>
        {copies.flatMap((offset) =>
          layer.operations.map((op, i) => (
            <Block key={`${offset}-${i}`} op={op} offset={offset} scale={scale} />
          )),
        )}
      </g>
      {ticks.map((at) => (
        <g key={at}>
          <line
            class="tick"
            x1={left + at * scale}
            x2={left + at * scale}
            y1={top - 4}
            y2={height - 18}
          />
          <text
            class="time"
            x={left + at * scale}
            y={height - 5}
            text-anchor={at === 0 ? "start" : "end"}
          >
            {at === 0 ? "a layer begins" : ms(at)}
          </text>
        </g>
      ))}
    </svg>
  );
}

function Block(props: { op: TimedOperation; offset: number; scale: number }): JSX.Element {
  const { op, offset, scale } = props;
  const y = top + (op.lane === "compute" ? 0 : laneHeight + gap);
  const x = left + (op.startUs + offset) * scale;
  const wide = (op.endUs - op.startUs) * scale;
  const labels = names[op.name].flatMap((name) => [`${name} (${op.microBatch})`, name]);
  const label = labels.find((text) => wide > text.length * 7.8 + 4);
  return (
    <g class={`block ${op.name} batch-${op.microBatch}`}>
      <title>{`${op.name}, micro-batch ${op.microBatch}: ${ms(op.endUs - op.startUs)}`}</title>
      <rect x={x + 0.5} y={y + 0.5} width={Math.max(1, wide - 1)} height={laneHeight - 1} rx="3" />
      {label && (
        <text x={x + wide / 2} y={y + 24}>
          {label}
        </text>
      )}
    </g>
  );
}

function Shares(props: { parts: Readonly<Record<string, number>>; periodUs: number }): JSX.Element {
  const most = Math.max(...Object.values(props.parts));
  return (
    <ul class="shares">
      {Object.entries(props.parts).map(([name, us]) => (
        <li key={name} class={name === "dispatch" || name === "combine" ? "exchange" : "work"}>
          <span>{name}</span>
          <i style={{ width: `${(us / most) * 100}%` }} />
          <b>{ms(us)}</b>
        </li>
      ))}
    </ul>
  );
}

function Memory({ memory }: { memory: PhaseReport["memory"] }): JSX.Element {
  const { weights, kv, reserve } = memory;
  const total = weights + kv + reserve;
  const gb = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`;
  return (
    <div class="meter">
      <div class="bar">
        <i class="used" style={{ width: `${(weights / total) * 100}%` }} />
        <i class="cached" style={{ width: `${(kv / total) * 100}%` }} />
      </div>
      <p class="readout">
        Memory of a GPU: weights {gb(weights)}, cache {gb(kv)}, reserve {gb(reserve)}
      </p>
    </div>
  );
}

function ms(us: number): string {
  return us >= 1e3 ? `${(us / 1e3).toFixed(us >= 1e4 ? 1 : 2)} ms` : `${us.toFixed(0)} µs`;
}
