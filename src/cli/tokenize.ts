/** @file `baleen tokenize`: a text's token ids and pieces, and back. */
import { Tokenizer } from "../model/index.ts";
import { type Command, defineCommand } from "./command.ts";
import { modelFlags } from "./engine-flags.ts";
import { UsageError } from "./flags.ts";
import { idsOf, readStdin } from "./input.ts";

/** Prints ids and pieces of a text, or with `--decode` the text of ids. */
export const tokenize: Command = defineCommand({
  name: "tokenize",
  summary: "Show the token ids and pieces of a text, or with --decode the text of ids.",
  flags: {
    model: modelFlags.model,
    decode: { type: "switch", help: "Read ids (as 1 2 3 or [1, 2, 3]) and print their text." },
    ids: { type: "switch", help: "Print the ids alone, as a JSON list." },
    special: { type: "switch", help: "Frame the text as sequences begin for this model." },
  },
  operands: "[TEXT...]",
  examples: [
    'baleen tokenize "It is a truth"',
    "baleen tokenize --ids < FILE",
    "baleen tokenize --decode 72 101",
  ],
  async run({ flags, operands }) {
    const tokenizer = Tokenizer.fromDirectory(flags.model);
    const advice = flags.decode
      ? "There are no ids: give them after the command, or on standard input."
      : "There is no text: give it after the command, or on standard input.";
    const text = operands.length > 0 ? operands.join(" ") : await readStdin(advice);
    if (flags.decode) {
      console.log(tokenizer.decode(idsIn(text, tokenizer.vocabSize)));
      return;
    }
    const ids = tokenizer.encode(text, { addSpecialTokens: flags.special, allowSpecial: true });
    console.log(`[${ids.join(", ")}]`);
    if (!flags.ids) for (const id of ids) console.log(pieceLine(id, tokenizer));
  },
});

function idsIn(text: string, vocabSize: number): number[] {
  const words = text.match(/[^\s,[\]]+/g) ?? [];
  const numbers = words.map((word) => (/^\d+$/.test(word) ? Number(word) : Number.NaN));
  const bad = numbers.findIndex((id) => Number.isNaN(id));
  if (bad >= 0) throw new UsageError(`"${words[bad]}" is no token id: give whole numbers.`);
  return idsOf(numbers, vocabSize, "ids");
}

/** A piece as a JSON text, or as bytes where it is not whole characters. */
function pieceLine(id: number, tokenizer: Tokenizer): string {
  const bytes = tokenizer.tokenBytes(id);
  const text = Buffer.from(bytes).toString();
  const whole = !text.includes("\ufffd");
  const shown = whole ? JSON.stringify(text) : `<${Buffer.from(bytes).toString("hex")}>`;
  return `${String(id).padStart(8)}  ${shown}`;
}
