/** @file Writes `docs/api.md` (not committed) from the built declarations: every public name, its docstring, its declaration. */
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

/** The names that a door re-exports, with the declaration file each comes from. */
function namesOf(door) {
  const source = readFileSync(door, "utf8");
  return [...source.matchAll(/export (?:type )?\{([^}]*)\} from "(.*?)\.(?:js|ts)"/g)].flatMap(
    ([, list, file]) =>
      list
        .split(",")
        .map((name) => name.replace(/^\s*type /, "").trim())
        .filter(Boolean)
        .map((name) => ({ name, file: join(dirname(door), `${file}.d.ts`) })),
  );
}

/** The docstring and the declaration of a name. */
function entryOf({ name, file }) {
  const source = readFileSync(file, "utf8");
  const pattern = new RegExp(
    String.raw`(?:/\*\*((?:(?!\*/)[\s\S])*)\*/\s*)?(export (?:declare )?(?:abstract )?(?:function|const|class|interface|type) ${name}\b[\s\S]*?)(?=\n(?:export|/\*\*)|$)`,
  );
  const [, words = "", declaration = ""] = pattern.exec(source) ?? [];
  const text = words
    .split("\n")
    .map((line) => line.replace(/^\s*\* ?/, ""))
    .join("\n")
    .trim();
  return `### ${name}\n\n${text}\n\n\`\`\`ts\n${declaration.trim()}\n\`\`\`\n`;
}

const chapters = Object.entries(exports).map(([path, target]) => {
  const door = join(root, target.replace(/\.js$/, ".d.ts"));
  return `## baleen/${path.slice(2)}\n\n${namesOf(door).map(entryOf).join("\n")}`;
});
writeFileSync(join(root, "docs/api.md"), `# Public names of baleen\n\n${chapters.join("\n")}`);
console.log(`docs/api.md: ${chapters.length} rooms`);
