/** @file The answer as prose: the prompt, what the model wrote after it, and how it went. */
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Piece } from "./api.ts";
import { duration, short } from "./format.ts";
import type { Answer } from "./use-writer.ts";

/** The passage; invites to write while there is none. */
export function Passage({
  answer,
  onClear,
}: {
  answer: Answer | undefined;
  onClear: () => void;
}): JSX.Element {
  const scroller = useRef<HTMLDivElement>(null);
  // Follows the text until the reader scrolls up, and again from the bottom on.
  const follow = useRef({ isOn: true, top: 0 });
  const onScroll = (): void => {
    const { scrollTop, scrollHeight, clientHeight } = scroller.current!;
    if (scrollTop < follow.current.top) follow.current.isOn = false;
    if (scrollTop + clientHeight > scrollHeight - 8) follow.current.isOn = true;
    follow.current.top = scrollTop;
  };
  useEffect(() => {
    const box = scroller.current;
    if (box && follow.current.isOn) box.scrollTop = box.scrollHeight;
  });
  if (!answer) {
    return (
      <article class="card passage empty">
        <p>What the model writes appears here, token by token.</p>
      </article>
    );
  }
  const isBusy = answer.state === "waiting" || answer.state === "writing";
  return (
    <article class="card passage" aria-label="Passage" aria-busy={isBusy}>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must take the focus */}
      <div class="prose" ref={scroller} tabIndex={0} onScroll={onScroll}>
        <span class="given">{answer.prompt}</span>
        {answer.pieces.map((piece, index) => (
          <Word key={index} piece={piece} />
        ))}
        {isBusy && <span class="caret" aria-hidden="true" />}
      </div>
      {answer.error && (
        <p class="error" role="alert">
          {answer.error}
        </p>
      )}
      <footer>
        <span role="status">{summaryOf(answer)}</span>
        {!isBusy && (
          <button type="button" class="plain" onClick={onClear}>
            Clear
          </button>
        )}
      </footer>
    </article>
  );
}

/** A piece of text, the more tinted the less likely it was. */
function Word({ piece }: { piece: Piece }): JSX.Element {
  const { text, probability } = piece;
  if (probability === undefined) return <span>{text}</span>;
  // In bits: up to 2 (one in four) is no surprise, 8 (one in 256) is a full one.
  const surprise = Math.round(Math.min(1, (-Math.log2(probability) - 2) / 6) * 100);
  return (
    <span
      class="word"
      style={surprise > 0 ? { "--surprise": `${surprise}%` } : {}}
      title={`probability ${probability.toPrecision(2)}`}
    >
      {text}
    </span>
  );
}

function summaryOf(answer: Answer): string {
  const { state, ending, tokens, firstMs, perS } = answer;
  if (state === "waiting") return "Reading the prompt…";
  const first = firstMs === undefined ? [] : [`first after ${duration(firstMs)}`];
  const speed = perS === undefined ? [] : [`${short(perS)} tokens/s`];
  const count = [`${tokens} token${tokens === 1 ? "" : "s"}`];
  if (state === "writing") return "Writing…";
  const how = { stopped: "Stopped", failed: "Broke off", done: endOf(ending?.reason) }[state];
  const cached = ending?.cachedTokens
    ? [`${ending.cachedTokens} of ${ending.promptTokens} prompt tokens from the cache`]
    : [];
  return [`${how} after ${count}`, ...first, ...speed, ...cached].join(" · ");
}

function endOf(reason: string | undefined): string {
  return reason === "stop" ? "The model ended" : "Done";
}
