/** @file The few numbers worth a glance. */
import type { JSX } from "preact";
import { duration, percent, short } from "./format.ts";
import type { History } from "./history.ts";
import type { Answer } from "./use-writer.ts";

/** Figures of the reader's own answer and of the engine. */
export function Figures({
  history,
  answer,
}: {
  history: History;
  answer: Answer | undefined;
}): JSX.Element {
  const { latest } = history;
  const now = history.points.at(-1);
  const firstMs = answer?.firstMs;
  const perS = answer?.perS;
  const ratio = (part = 0, whole = 0): string => percent(whole > 0 ? part / whole : Number.NaN);
  return (
    <dl class="figures">
      <Figure name="First token" hint="your last text" mine>
        {firstMs === undefined ? "–" : duration(firstMs)}
      </Figure>
      <Figure name="Your speed" hint="tokens/s" mine>
        {perS === undefined ? "–" : short(perS)}
      </Figure>
      <Figure name="Engine busy" hint="of the time">
        {now ? percent(now.busy) : "–"}
      </Figure>
      <Figure name="Cache hits" hint="of prompts">
        {ratio(latest?.cachedPromptTokens, latest?.promptTokens)}
      </Figure>
      <Figure name="Drafts kept" hint="speculation">
        {ratio(latest?.acceptedTokens, latest?.draftedTokens)}
      </Figure>
    </dl>
  );
}

function Figure(props: {
  name: string;
  hint: string;
  mine?: boolean;
  children: string;
}): JSX.Element {
  return (
    <div class={props.mine ? "figure mine" : "figure"}>
      <dt>{props.name}</dt>
      <dd>
        <b>{props.children}</b>
        <small>{props.hint}</small>
      </dd>
    </div>
  );
}
