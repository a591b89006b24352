/**
 * @file Reads the JSON of a trace as it arrives, in pieces of any size. Written by hand, since a trace
 * may be larger than the longest string: one pass over the bytes, nothing kept but the event at hand.
 * Method: bytes lie in one buffer with a quotation mark behind the last, which ends every inner loop
 * without a test; an event that is not whole yet is read again when there is more (twice as much,
 * so that the work stays linear). Values that no report uses are skipped by brackets and quotation
 * marks, and so are not checked.
 */
import { profileError } from "./errors.ts";
import { StringTable } from "./strings.ts";
import { type ExactTime, readTime } from "./time.ts";

/** What the scanner hands an event to, once it is whole. Fields are on the scanner itself. */
export interface EventSink {
  event(scanner: TraceScanner): void;
  /** A value beside the events, such as `distributedInfo`, parsed. */
  metadata(key: string, value: unknown): void;
}

const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;
const colon = 0x3a;
const braceOpen = 0x7b;
const braceClose = 0x7d;
const bracketOpen = 0x5b;
const bracketClose = 0x5d;

/** The longest event, and the longest kept value beside the events. */
const maxValueBytes = 64 * 2 ** 20;
const metadataKeys = new Set([
  "schemaVersion",
  "traceName",
  "distributedInfo",
  "baseTimeNanoseconds",
  "displayTimeUnit",
]);

/** Thrown where the bytes at hand end within a value. One object: it carries nothing. */
const underflow = new Error("more bytes are needed");

type Place = "start" | "object" | "skip" | "events" | "end";

/** A reader of one trace; `feed` it, then `finish`. */
export class TraceScanner {
  /** All strings of the trace, numbered. Numbers that name things (pid, stream) are strings too. */
  readonly strings: StringTable = new StringTable();
  /** The event's `ph`, a character code; 0 if it has none. */
  phase = 0;
  /** Numbers of strings, or -1. */
  category = -1;
  pid = -1;
  tid = -1;
  hasTime = false;
  hasDuration = false;
  readonly time: ExactTime = { us: 0, ns: 0 };
  readonly duration: ExactTime = { us: 0, ns: 0 };
  /** Of `args`: numbers of strings, or -1; NaN where there is no correlation. */
  stream = -1;
  argName = -1;
  waitOnStream = -1;
  correlation: number = Number.NaN;
  waitOnCorrelation: number = Number.NaN;
  /** Events so far, of whatever kind. */
  numEvents = 0;

  private readonly sink: EventSink;
  private bytes = new Uint8Array((1 << 16) + 1);
  private pos = 0;
  private end = 0;
  /** Bytes dropped from the buffer's front, so that messages can say where. */
  private dropped = 0;
  /** Don't try again before the buffer holds so many bytes. */
  private retryAt = 0;
  private place: Place = "start";
  private bareArray = false;
  private needComma = false;
  private sawEvents = false;
  private depth = 0;
  private inString = false;
  private readonly decoder = new TextDecoder();
  /** Where the event's name begins in the buffer, or -1. */
  private nameAt = -1;
  /** The end of the last string, before its quotation mark. */
  private stringEnd = 0;

  constructor(sink: EventSink) {
    this.sink = sink;
  }

  /** Reads on with the file's next bytes; `chunk` may be reused afterwards. */
  feed(chunk: Uint8Array): void {
    const held = this.end - this.pos;
    if (this.pos > 0) {
      this.bytes.copyWithin(0, this.pos, this.end);
      this.dropped += this.pos;
      [this.pos, this.end] = [0, held];
    }
    const needed = held + chunk.length + 1;
    if (needed > this.bytes.length) {
      const larger = new Uint8Array(Math.max(needed, held > 0 ? this.bytes.length * 2 : 0));
      larger.set(this.bytes.subarray(0, held));
      this.bytes = larger;
    }
    this.bytes.set(chunk, held);
    this.end = held + chunk.length;
    this.bytes[this.end] = quote;
    if (this.end >= this.retryAt) this.run();
  }

  /** Says that the file is at its end; throws unless it was whole. */
  finish(): void {
    this.run();
    if (this.place === "start") throw this.invalid("is empty", "give a trace as JSON");
    const rest = this.pos < this.end;
    // Chrome's array format may lack its last bracket: a program that is cut short can't write it.
    const open = this.place === "events" && this.bareArray && !rest && this.numEvents > 0;
    if (this.place === "end" || open) {
      if (this.sawEvents || this.bareArray) return;
      throw profileError(
        "trace-invalid",
        'The trace has no "traceEvents": give a trace as PyTorch\'s profiler or Chrome writes it.',
      );
    }
    throw profileError(
      "trace-truncated",
      `The trace ends at byte ${this.dropped + this.end}, in the middle ` +
        `(${this.numEvents} events are whole): copy or record it again.`,
    );
  }

  /**
   * The number of the event's name, or -1. Asked for by the sink, for events that it keeps: a trace may
   * have millions of names that nobody wants.
   */
  name(): number {
    if (this.nameAt < 0) return -1;
    const after = this.pos;
    this.pos = this.nameAt;
    const id = this.word();
    this.pos = after;
    return id;
  }

  private run(): void {
    let kept = this.pos;
    try {
      for (;;) {
        kept = this.pos;
        if (!this.step()) break;
      }
    } catch (error) {
      if (error !== underflow) throw error;
      this.pos = kept;
      if (this.end - kept > maxValueBytes) {
        throw this.invalid("has a value of more than 64 MiB", "give a trace of a profiler");
      }
    }
    const held = this.end - this.pos;
    this.retryAt = held < 1 << 16 ? 0 : held * 2;
  }

  /** One event, or one bit of what is around them; false at the end of the bytes. */
  private step(): boolean {
    if (this.place === "skip") return this.skipOn();
    this.skipSpace();
    if (this.pos >= this.end) return false;
    if (this.place === "events") this.eventOrEnd();
    else if (this.place === "object") this.memberOrEnd();
    else if (this.place === "start") this.begin();
    else throw this.invalid("goes on after its end", "cut it there");
    return true;
  }

  private begin(): void {
    const byte = this.bytes[this.pos];
    if (byte === 0xef) {
      if (this.end - this.pos < 3) throw underflow;
      if (this.bytes[this.pos + 1] !== 0xbb || this.bytes[this.pos + 2] !== 0xbf) {
        throw this.invalid("is no JSON", "give a trace of a profiler");
      }
      this.pos += 3;
      return;
    }
    if (byte === bracketOpen) [this.place, this.bareArray] = ["events", true];
    else if (byte === braceOpen) this.place = "object";
    else throw this.invalid("is no JSON object or array", "give a trace of a profiler");
    this.pos++;
  }

  private memberOrEnd(): void {
    if (this.bytes[this.pos] === braceClose) {
      this.pos++;
      this.place = "end";
      return;
    }
    if (this.needComma) {
      this.expect(comma, "a comma");
      this.skipSpace();
    }
    const key = this.text();
    this.skipSpace();
    this.expect(colon, "a colon");
    this.skipSpace();
    if (this.pos >= this.end) throw underflow;
    if (key === "traceEvents") {
      this.expect(bracketOpen, "the list of events");
      [this.place, this.needComma, this.sawEvents] = ["events", false, true];
    } else if (metadataKeys.has(key)) {
      const from = this.pos;
      this.skipValue();
      this.sink.metadata(key, this.parse(from, this.pos));
      this.needComma = true;
    } else {
      [this.place, this.depth, this.inString] = ["skip", 0, false];
    }
  }

  private eventOrEnd(): void {
    if (this.bytes[this.pos] === bracketClose) {
      this.pos++;
      this.place = this.bareArray ? "end" : "object";
      this.needComma = true;
      return;
    }
    if (this.needComma) {
      this.expect(comma, "a comma");
      this.needComma = false;
      // A comma may be the last thing of a list, as in files of Chrome that were cut short.
      return;
    }
    if (this.bytes[this.pos] !== braceOpen) {
      throw this.invalid(`has no event as traceEvents[${this.numEvents}]`, "record it again");
    }
    this.readEvent();
    this.sink.event(this);
    this.numEvents++;
    this.needComma = true;
  }

  private readEvent(): void {
    this.phase = 0;
    this.nameAt = this.category = this.pid = this.tid = -1;
    this.hasTime = this.hasDuration = false;
    this.stream = this.argName = this.waitOnStream = -1;
    this.correlation = this.waitOnCorrelation = Number.NaN;
    this.pos++;
    for (let first = true; ; first = false) {
      this.skipSpace();
      if (this.bytes[this.pos] === braceClose) break;
      if (!first) {
        this.expect(comma, "a comma");
        this.skipSpace();
      }
      const [from, to] = [this.key(), this.stringEnd];
      this.readMember(from, to - from);
    }
    this.pos++;
  }

  private readMember(key: number, length: number): void {
    const { bytes } = this;
    const first = bytes[key];
    if (length === 2 && bytes[key + 1] === 0x68 && first === 0x70) this.readPhase();
    else if (length === 2 && bytes[key + 1] === 0x73 && first === 0x74) {
      this.hasTime = this.readTimeInto(this.time, "ts");
    } else if (length === 3 && this.isKey(key, "dur")) {
      this.hasDuration = this.readTimeInto(this.duration, "dur");
    } else if (length === 3 && this.isKey(key, "cat")) this.category = this.word();
    else if (length === 3 && this.isKey(key, "pid")) this.pid = this.word();
    else if (length === 3 && this.isKey(key, "tid")) this.tid = this.word();
    else if (length === 4 && this.isKey(key, "name")) {
      this.nameAt = this.pos;
      this.skipValue();
    } else if (length === 4 && this.isKey(key, "args") && bytes[this.pos] === braceOpen) {
      this.readArgs();
    } else this.skipValue();
  }

  private readArgs(): void {
    this.pos++;
    for (let first = true; ; first = false) {
      this.skipSpace();
      if (this.bytes[this.pos] === braceClose) break;
      if (!first) {
        this.expect(comma, "a comma");
        this.skipSpace();
      }
      const [key, end] = [this.key(), this.stringEnd];
      switch (end - key) {
        case 4:
          if (this.isKey(key, "name")) this.argName = this.word();
          else this.skipValue();
          break;
        case 6:
          if (this.isKey(key, "stream")) this.stream = this.word();
          else this.skipValue();
          break;
        case 11:
          if (this.isKey(key, "correlation")) this.correlation = this.number();
          else this.skipValue();
          break;
        case 14:
          if (this.isKey(key, "wait_on_stream")) this.waitOnStream = this.word();
          else this.skipValue();
          break;
        case 33:
          if (this.isKey(key, "wait_on_cuda_event_record_corr_id")) {
            this.waitOnCorrelation = this.number();
          } else this.skipValue();
          break;
        default:
          this.skipValue();
      }
    }
    this.pos++;
  }

  /** Reads `"key" :` and the space behind; the key's start, with its end in `stringEnd`. */
  private key(): number {
    if (this.bytes[this.pos] !== quote || this.pos >= this.end) throw this.wrong("a key");
    const from = this.pos + 1;
    this.skipString();
    const to = this.pos - 1;
    this.skipSpace();
    this.expect(colon, "a colon");
    this.skipSpace();
    if (this.pos >= this.end) throw underflow;
    this.stringEnd = to;
    return from;
  }

  private isKey(at: number, key: string): boolean {
    for (let i = 0; i < key.length; i++) {
      if (this.bytes[at + i] !== key.charCodeAt(i)) return false;
    }
    return true;
  }

  private readPhase(): void {
    const from = this.pos;
    this.skipValue();
    if (this.bytes[from] === quote && this.pos === from + 3) this.phase = this.bytes[from + 1];
  }

  /** A number, or a string that holds one; null is none. */
  private readTimeInto(into: ExactTime, field: string): boolean {
    const from = this.pos;
    this.skipValue();
    const quoted = this.bytes[from] === quote ? 1 : 0;
    if (this.bytes[from] === 0x6e) return false;
    if (readTime(this.bytes, from + quoted, this.pos - quoted, into)) return true;
    throw this.invalid(
      `has no number of microseconds as ${field} of traceEvents[${this.numEvents}]`,
      "record it again",
      from,
    );
  }

  private number(): number {
    const from = this.pos;
    this.skipValue();
    const quoted = this.bytes[from] === quote ? 1 : 0;
    const end = this.pos - quoted;
    let value = 0;
    for (let at = from + quoted; at < end; at++) {
      const digit = this.bytes[at] - 0x30;
      if (digit < 0 || digit > 9) return Number(this.decode(from + quoted, end));
      value = value * 10 + digit;
    }
    return value;
  }

  /** The number of the string, or of the literal as a string, that stands here. */
  private word(): number {
    const { bytes } = this;
    let at = this.pos;
    let hash = 0;
    if (bytes[at] !== quote) {
      const from = at;
      this.skipValue();
      for (; at < this.pos; at++) hash = (Math.imul(hash, 31) + bytes[at]) | 0;
      return this.strings.intern(bytes, from, this.pos, hash, this.decodeRaw);
    }
    const from = ++at;
    let byte = bytes[at];
    while (byte !== quote && byte !== backslash) {
      hash = (Math.imul(hash, 31) + byte) | 0;
      byte = bytes[++at];
    }
    if (at >= this.end) throw underflow;
    if (byte === quote) {
      this.pos = at + 1;
      return this.strings.intern(bytes, from, at, hash, this.decodeRaw);
    }
    this.skipString();
    for (; at < this.pos - 1; at++) hash = (Math.imul(hash, 31) + bytes[at]) | 0;
    return this.strings.intern(bytes, from, this.pos - 1, hash, this.decodeEscaped);
  }

  private readonly decodeRaw = (start: number, end: number): string => this.decode(start, end);

  private readonly decodeEscaped = (start: number, end: number): string =>
    this.parse(start - 1, end + 1) as string;

  private decode(start: number, end: number): string {
    return this.decoder.decode(this.bytes.subarray(start, end));
  }

  private parse(start: number, end: number): unknown {
    try {
      return JSON.parse(this.decode(start, end));
    } catch {
      throw this.invalid("is no valid JSON", "record or copy it again", start);
    }
  }

  private text(): string {
    if (this.bytes[this.pos] !== quote || this.pos >= this.end) throw this.wrong("a key");
    const from = this.pos;
    this.skipString();
    return this.parse(from, this.pos) as string;
  }

  private skipSpace(): void {
    const { bytes } = this;
    let at = this.pos;
    let byte = bytes[at];
    while (byte <= 0x20 && (byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09)) {
      byte = bytes[++at];
    }
    this.pos = at;
  }

  /** Passes the string that begins here. */
  private skipString(): void {
    const { bytes, end } = this;
    let at = this.pos + 1;
    for (;;) {
      while (bytes[at] !== quote && bytes[at] !== backslash) at++;
      if (at >= end) throw underflow;
      if (bytes[at] === quote) break;
      at += 2;
      if (at > end) throw underflow;
    }
    this.pos = at + 1;
  }

  /** Passes the value that begins here, checked no further than its brackets. */
  private skipValue(): void {
    const { bytes } = this;
    if (this.pos >= this.end) throw underflow;
    const first = bytes[this.pos];
    if (first === quote) this.skipString();
    else if (first === braceOpen || first === bracketOpen) this.skipNested();
    else this.skipScalar();
  }

  private skipNested(): void {
    const { bytes, end } = this;
    let depth = 0;
    let at = this.pos;
    do {
      const byte = bytes[at];
      if (byte === quote) {
        if (at >= end) throw underflow;
        this.pos = at;
        this.skipString();
        at = this.pos;
        continue;
      }
      // 0x5b and 0x7b, 0x5d and 0x7d differ in one bit.
      const bracket = byte | 0x20;
      if (bracket === braceOpen) depth++;
      else if (bracket === braceClose) depth--;
      at++;
    } while (depth > 0);
    this.pos = at;
  }

  /** A number or a word: digits, letters, signs and points. */
  private skipScalar(): void {
    const { bytes } = this;
    const from = this.pos;
    let at = from;
    for (let byte = bytes[at]; isScalarByte(byte); byte = bytes[++at]);
    if (at >= this.end) throw underflow;
    if (at === from) throw this.wrong("a value");
    this.pos = at;
  }

  /** Passes a value beside the events, however long, as far as the bytes go. */
  private skipOn(): boolean {
    const { bytes, end } = this;
    while (this.pos < end) {
      const byte = bytes[this.pos];
      if (this.inString) {
        if (byte === backslash && this.pos + 1 >= end) return false;
        this.pos += byte === backslash ? 2 : 1;
        if (byte === quote) this.inString = false;
        continue;
      }
      const closes = byte === braceClose || byte === bracketClose;
      if (this.depth === 0 && (byte === comma || closes)) {
        [this.place, this.needComma] = ["object", true];
        return true;
      }
      if (byte === quote) this.inString = true;
      else if (byte === braceOpen || byte === bracketOpen) this.depth++;
      else if (closes) this.depth--;
      this.pos++;
    }
    return false;
  }

  private expect(byte: number, what: string): void {
    if (this.pos >= this.end) throw underflow;
    if (this.bytes[this.pos] !== byte) throw this.wrong(what);
    this.pos++;
  }

  /** Something else stands where `what` should; or nothing yet. */
  private wrong(what: string): Error {
    if (this.pos >= this.end) return underflow;
    return this.invalid(`is no valid JSON: ${what} is missing`, "record or copy it again");
  }

  private invalid(problem: string, advice: string, at: number = this.pos): Error {
    const where = `at byte ${this.dropped + at}`;
    return profileError("trace-invalid", `The trace ${problem} (${where}): ${advice}.`);
  }
}

function isScalarByte(byte: number): boolean {
  const letter = byte | 0x20;
  const digit = byte >= 0x30 && byte <= 0x39;
  return (
    digit || (letter >= 0x61 && letter <= 0x7a) || byte === 0x2b || byte === 0x2d || byte === 0x2e
  );
}
