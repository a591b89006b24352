/** @file Follows the engine: connects, reads its states, connects again when the server is back. */
import { useEffect, useRef, useState } from "preact/hooks";
import { engineEvents, fetchInfo, type ModelInfo, ServerError } from "./api.ts";
import { History } from "./history.ts";

/** How the page stands with the server. */
type Connection =
  | { readonly kind: "connecting" }
  | { readonly kind: "live" }
  | { readonly kind: "locked"; readonly message: string }
  | { readonly kind: "lost"; readonly message: string };

/** What is known of the engine. */
export interface EngineView {
  readonly connection: Connection;
  readonly info: ModelInfo | undefined;
  readonly history: History;
  /** Tries again now, with the present API key. */
  readonly reconnect: () => void;
}

/** Milliseconds before another try: soon at first, then less often. */
const retryMs = [500, 1000, 2000, 3000, 5000];

const live: Connection = { kind: "live" };

/** Follows the engine for as long as the component lives; renders twice a second. */
export function useEngine(): EngineView {
  const [connection, setConnection] = useState<Connection>({ kind: "connecting" });
  const [info, setInfo] = useState<ModelInfo>();
  const [, redraw] = useState(0);
  const [attempt, setAttempt] = useState(0);
  const history = useRef(new History());

  useEffect(() => {
    const controller = new AbortController();
    const { signal } = controller;
    let failures = 0;

    const follow = async (): Promise<void> => {
      setInfo(await fetchInfo(signal));
      for await (const stats of engineEvents(signal)) {
        setConnection(live);
        failures = 0;
        const isNew = history.current.add(stats, performance.now() / 1000);
        if (isNew && !document.hidden) redraw((count) => count + 1);
      }
    };
    const keepFollowing = async (): Promise<void> => {
      while (!signal.aborted) {
        try {
          await follow();
          setConnection({ kind: "lost", message: "The server stopped. Waiting for it to return." });
        } catch (error) {
          if (signal.aborted) return;
          if (error instanceof ServerError && error.status === 401) {
            setConnection({ kind: "locked", message: error.message });
            return;
          }
          setConnection({ kind: "lost", message: reasonOf(error) });
        }
        await pause(retryMs[Math.min(failures++, retryMs.length - 1)], signal);
      }
    };
    keepFollowing();
    return () => controller.abort();
  }, [attempt]);

  return {
    connection,
    info,
    history: history.current,
    reconnect: () => setAttempt((count) => count + 1),
  };
}

function reasonOf(error: unknown): string {
  if (error instanceof ServerError && error.status !== 0) return error.message;
  return "The server can't be reached. Trying again.";
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
    signal.addEventListener("abort", () => resolve());
  });
}
