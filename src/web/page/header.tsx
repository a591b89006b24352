/** @file Top of the page: what is served, whether it is there, and where its interfaces are. */
import type { JSX } from "preact";
import icon from "./icon.svg";
import type { EngineView } from "./use-engine.ts";

const states = {
  connecting: "Connecting",
  live: "Live",
  locked: "Needs a key",
  lost: "Reconnecting",
} as const;

/** The header. */
export function Header({ engine }: { engine: EngineView }): JSX.Element {
  const { info, connection } = engine;
  return (
    <header>
      <div class="brand">
        <img src={icon} alt="" width="36" height="36" />
        <div>
          <h1>baleen{info && <span class="model"> {info.id}</span>}</h1>
          <p>{info?.description ?? "A DeepSeek-V3 engine, in TypeScript"}</p>
        </div>
      </div>
      <nav aria-label="Interfaces">
        <a href="./openapi.json">API</a>
        <a href="./metrics">Metrics</a>
        <span class={`status ${connection.kind}`} role="status">
          {states[connection.kind]}
        </span>
      </nav>
    </header>
  );
}
