/** @file The engine at work: figures, series of the last two minutes, and where tokens go. */
import type { JSX } from "preact";
import { ExpertMap } from "./expert-map.tsx";
import { Figures } from "./figures.tsx";
import { short } from "./format.ts";
import { type History, shownS } from "./history.ts";
import { Meter } from "./meter.tsx";
import { TimeChart } from "./time-chart.tsx";
import type { Answer } from "./use-writer.ts";

/** Figures and charts of `history`. */
export function EnginePanel({
  history,
  answer,
}: {
  history: History;
  answer: Answer | undefined;
}): JSX.Element {
  const { points, latest } = history;
  const nowS = points.at(-1)?.timeS ?? 0;
  const times = points.map((point) => point.timeS - nowS);
  const used = points.map((point) => point.blocksUsed);
  const kept = points.map((point) => point.blocksUsed + point.blocksCached);
  return (
    <section class="engine" aria-label="The engine">
      <Figures history={history} answer={answer} />
      <TimeChart
        title="Tokens per second"
        times={times}
        seconds={shownS}
        series={[
          { name: "generated", tone: "main", values: points.map((point) => point.generatedPerS) },
          { name: "prompt", tone: "other", values: points.map((point) => point.promptPerS) },
        ]}
      />
      <TimeChart
        title="Sequences"
        times={times}
        seconds={shownS}
        isWhole
        series={[
          { name: "running", tone: "main", values: points.map((point) => point.running) },
          { name: "waiting", tone: "other", values: points.map((point) => point.waiting) },
        ]}
      />
      <TimeChart
        title="KV blocks"
        times={times}
        seconds={shownS}
        isWhole
        series={[
          // Stacked: the cached blocks lie on top of the used ones.
          { name: "cached", tone: "pale", values: kept, shown: points.map((p) => p.blocksCached) },
          { name: "used", tone: "main", values: used },
        ]}
      >
        {latest && (
          <Meter
            label={`of ${short(latest.blocksTotal)} blocks of 64 tokens`}
            total={latest.blocksTotal}
            used={latest.blocksUsed}
            cached={latest.blocksCached}
          />
        )}
      </TimeChart>
      <ExpertMap load={history.expertWindow()} />
    </section>
  );
}
