/** @file The prompt and how to sample from it. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { ModelInfo } from "./api.ts";
import { Slider, WholeNumber } from "./fields.tsx";
import type { Writer } from "./use-writer.ts";

/** The form: Ctrl+Enter writes, Escape stops. */
export function PromptForm({
  info,
  writer,
}: {
  info: ModelInfo | undefined;
  writer: Writer;
}): JSX.Element {
  const [prompt, setPrompt] = useState("It is a truth universally acknowledged");
  const [temperature, setTemperature] = useState(0.8);
  const [topP, setTopP] = useState(0.95);
  const [maxTokens, setMaxTokens] = useState<number | undefined>(160);
  const [seed, setSeed] = useState<number | undefined>();
  const [isShaded, setShaded] = useState(true);
  const canWrite = info !== undefined && prompt !== "" && !writer.isBusy;

  const write = (): void => {
    if (!canWrite) return;
    writer.write({
      model: info.id,
      prompt,
      temperature,
      top_p: topP,
      max_tokens: maxTokens ?? 160,
      seed,
      withProbabilities: isShaded,
    });
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) write();
    else if (event.key === "Escape") writer.stop();
  };

  return (
    <form class="card prompt" onKeyDown={onKeyDown} onSubmit={(event) => event.preventDefault()}>
      <label for="prompt">Begin a text</label>
      <textarea
        id="prompt"
        rows={3}
        value={prompt}
        spellcheck={false}
        onInput={(event) => setPrompt(event.currentTarget.value)}
      />
      <fieldset class="sampling">
        <legend class="hidden">Sampling</legend>
        <Slider label="Temperature" value={temperature} max={2} onChange={setTemperature} />
        <Slider label="Top p" value={topP} max={1} onChange={setTopP} />
        <WholeNumber
          label="Most tokens"
          value={maxTokens}
          min={1}
          max={info?.maxContext ?? 1024}
          placeholder="160"
          onChange={setMaxTokens}
        />
        <WholeNumber label="Seed" value={seed} min={0} placeholder="random" onChange={setSeed} />
      </fieldset>
      <div class="actions">
        {/* One button that changes its name keeps the focus, and never submits while it stops. */}
        <button
          type="button"
          class={writer.isBusy ? "stop" : "primary"}
          disabled={!writer.isBusy && !canWrite}
          onClick={writer.isBusy ? writer.stop : write}
        >
          {writer.isBusy ? "Stop" : "Write"}
        </button>
        <label class="switch">
          <input
            type="checkbox"
            checked={isShaded}
            onChange={(event) => setShaded(event.currentTarget.checked)}
          />
          Shade unlikely words
        </label>
        <small class="keys">
          <kbd>Ctrl</kbd> <kbd>Enter</kbd> writes, <kbd>Esc</kbd> stops
        </small>
      </div>
    </form>
  );
}
