/**
 * @file Whether guessing tokens pays, found out by measuring. A guess costs the MTP layer's pass and
 * a second row in the next forward pass; it saves a step when it is right. Where a step's time
 * goes into reading weights, a second row is nearly free; where it goes into arithmetic, or into
 * reading the experts that only this row needs, it is not. That depends on model, machine, number
 * of sequences and text, so both ways are timed, by number of sequences, and tried again now
 * and then. Answers are the same either way.
 */

/** Steps that one way is tried for, before it is judged. */
const trialSteps = 8;
/** After so many steps the other way is tried again. */
const periodSteps = 400;
/** What an older step counts for, relative to the next one. */
const decay = 0.95;
/** The other way must be faster by this factor: timings are noisy. */
const margin = 1.05;

/** What is known of one way with some number of sequences. */
interface Way {
  steps: number;
  ms: number;
  tokens: number;
}

/** Both ways with some number of sequences. */
interface Record {
  readonly guessing: Way;
  readonly plain: Way;
  favourite: "guessing" | "plain";
  /** Steps since the other way was last tried. */
  steps: number;
}

/** Decides for one engine whether its next step shall guess. */
export class DraftPolicy {
  /** By the binary logarithm of the number of sequences. */
  private readonly records: Record[] = [];

  /** Whether a step in which `sequences` draw shall guess. */
  shouldGuess(sequences: number): boolean {
    const record = this.recordOf(sequences);
    const { favourite, guessing, plain } = record;
    if (guessing.steps < trialSteps) return true;
    if (plain.steps < trialSteps) return false;
    const tries = record.steps >= periodSteps;
    return (favourite === "guessing") !== tries;
  }

  /** Takes note of a step all of whose `sequences` were treated alike: its tokens and its time. */
  observe(sequences: number, guessed: boolean, tokens: number, ms: number): void {
    const record = this.recordOf(sequences);
    const way = guessed ? record.guessing : record.plain;
    way.steps++;
    way.ms = way.ms * decay + ms;
    way.tokens = way.tokens * decay + tokens;
    record.steps++;
    if (record.steps === periodSteps + trialSteps) record.steps = 0;
    this.judge(record);
  }

  private judge(record: Record): void {
    const { guessing, plain } = record;
    if (guessing.steps < trialSteps || plain.steps < trialSteps) return;
    const [cost, plainCost] = [guessing, plain].map(({ ms, tokens }) => ms / tokens);
    if (cost * margin < plainCost) record.favourite = "guessing";
    if (plainCost * margin < cost) record.favourite = "plain";
  }

  private recordOf(sequences: number): Record {
    const index = 31 - Math.clz32(sequences);
    this.records[index] ??= {
      guessing: { steps: 0, ms: 0, tokens: 0 },
      plain: { steps: 0, ms: 0, tokens: 0 },
      favourite: "guessing",
      steps: 0,
    };
    return this.records[index];
  }
}
