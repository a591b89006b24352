/** @file The server's life: loading, serving, draining; and who has to know. */
import { draining, loading } from "./errors.ts";
import type { Served } from "./options.ts";

/** What is served, whether the server drains, and how many answers are under way. */
export class ServerState {
  /** Undefined while the model loads. */
  served: Served | undefined;
  /** Set where loading failed. */
  failure: unknown;
  isDraining = false;
  private answers = 0;
  private readonly drainListeners = new Set<() => void>();
  private readonly idleListeners = new Set<() => void>();

  constructor(served: Served | Promise<Served>) {
    if (!(served instanceof Promise)) {
      this.served = served;
      return;
    }
    served.then(
      (loaded) => {
        this.served = loaded;
      },
      (failure: unknown) => {
        this.failure = failure;
      },
    );
  }

  /** What is served, or a 503. */
  require(): Served {
    if (this.isDraining) throw draining();
    if (!this.served) throw loading();
    return this.served;
  }

  /** Counts an answer as under way until the returned function is called (once or more often). */
  begin(): () => void {
    this.answers++;
    let open = true;
    return () => {
      if (!open) return;
      open = false;
      if (--this.answers === 0) for (const listener of this.idleListeners) listener();
    };
  }

  /** Calls `listener` when draining starts; the returned function forgets it. */
  onDrain(listener: () => void): () => void {
    this.drainListeners.add(listener);
    return () => this.drainListeners.delete(listener);
  }

  /** From now on new requests get 503; resolves when no answer is under way. */
  async drain(): Promise<void> {
    if (!this.isDraining) {
      this.isDraining = true;
      for (const listener of this.drainListeners) listener();
    }
    if (this.answers === 0) return;
    await new Promise<void>((resolve) => this.idleListeners.add(resolve));
  }
}
