/** @file The page: on the left one writes with the model, on the right is the engine at work. */
import type { JSX } from "preact";
import { EnginePanel } from "./engine-panel.tsx";
import { Header } from "./header.tsx";
import { Notice } from "./notice.tsx";
import { Passage } from "./passage.tsx";
import { PromptForm } from "./prompt-form.tsx";
import { useEngine } from "./use-engine.ts";
import { useWriter } from "./use-writer.ts";

/** The whole page. */
export function App(): JSX.Element {
  const engine = useEngine();
  const writer = useWriter();
  return (
    <>
      <Header engine={engine} />
      <Notice engine={engine} />
      <main>
        <section class="desk" aria-label="Write with the model">
          <PromptForm info={engine.info} writer={writer} />
          <Passage answer={writer.answer} onClear={writer.clear} />
        </section>
        <EnginePanel history={engine.history} answer={writer.answer} />
      </main>
    </>
  );
}
