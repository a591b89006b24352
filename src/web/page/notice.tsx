/** @file What stands between reader and server: a lost connection, or a key that is asked for. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { apiKey, setApiKey } from "./api.ts";
import type { EngineView } from "./use-engine.ts";

/** One line, or the field for a key; nothing while all is well. */
export function Notice({ engine }: { engine: EngineView }): JSX.Element | null {
  const { connection } = engine;
  if (connection.kind === "lost") {
    return (
      <p class="notice" role="status">
        {connection.message}
      </p>
    );
  }
  return connection.kind === "locked" ? <KeyForm onKey={engine.reconnect} /> : null;
}

function KeyForm({ onKey }: { onKey: () => void }): JSX.Element {
  const [key, setKey] = useState("");
  const wasRefused = apiKey() !== "";
  const send = (event: Event): void => {
    event.preventDefault();
    setApiKey(key.trim());
    onKey();
  };
  return (
    <form class="notice key" onSubmit={send}>
      <label for="api-key">
        {wasRefused
          ? "The server does not know this API key. Another one:"
          : "This server asks for an API key:"}
      </label>
      <input
        id="api-key"
        type="password"
        autocomplete="off"
        value={key}
        onInput={(event) => setKey(event.currentTarget.value)}
      />
      <button type="submit" class="primary" disabled={key.trim() === ""}>
        Use key
      </button>
      <small>Kept in this tab only.</small>
    </form>
  );
}
