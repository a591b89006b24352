/**
 * @file What a GPU and its node can do, as plain data: six profiles with the source of every number,
 * and the check of a profile that somebody edited. `baleen plan hardware --json` prints them.
 *
 * FLOPS are dense and nominal; what kernels reach of them is in `kernels.ts`. Bandwidths are one way,
 * nominal, in 10^9 bytes a second. 8 GPUs a node except where said. Prices are what one pays for a
 * GPU hour: only the H800's is published (by the article), the others are round figures to edit.
 */
import { nearestName } from "../base/index.ts";
import { checkNumber, plannerError, refuse } from "./errors.ts";

/** A GPU, its links and its price. */
export interface Hardware {
  readonly name: string;
  readonly title: string;
  readonly fp8Tflops: number;
  readonly bf16Tflops: number;
  readonly hbmGB: number;
  readonly hbmGBs: number;
  /** To all other GPUs of its NVLink domain together. */
  readonly nvlinkGBs: number;
  /** GPUs that NVLink joins. */
  readonly nvlinkGpus: number;
  /** Of its own network card. */
  readonly nicGBs: number;
  readonly gpusPerNode: number;
  readonly sms: number;
  readonly dollarsPerGpuHour: number;
  /** Where each number comes from, by its key. */
  readonly sources: Readonly<Record<string, string>>;
}

/** The numbers of a profile, in the order in which they are shown, and their least values. */
const fields = {
  fp8Tflops: 1,
  bf16Tflops: 1,
  hbmGB: 1,
  hbmGBs: 1,
  nvlinkGBs: 0.1,
  nvlinkGpus: 1,
  nicGBs: 0.1,
  gpusPerNode: 1,
  sms: 1,
  dollarsPerGpuHour: 0,
} as const;

const assumedPrice = "assumption, a round cloud price: edit it";
const cx7 = "ConnectX-7, 400 Gb/s a GPU";

/** Datasheet sources that most keys of a profile share. */
function from(sheet: string, more: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.keys(fields).map((key) => [key, more[key] ?? sheet]));
}

const profiles: readonly Hardware[] = [
  {
    name: "h800",
    title: "NVIDIA H800 SXM",
    fp8Tflops: 1979,
    bf16Tflops: 989,
    hbmGB: 80,
    hbmGBs: 3350,
    nvlinkGBs: 200,
    nvlinkGpus: 8,
    nicGBs: 50,
    gpusPerNode: 8,
    sms: 132,
    dollarsPerGpuHour: 2,
    sources: from("NVIDIA H800 SXM datasheet, without sparsity", {
      nvlinkGBs: "NVLink 400 GB/s both ways; DeepEP's README reaches some 160 one way",
      nicGBs: "DeepEP README: CX7 InfiniBand 400 Gb/s",
      sms: "DeepSeek's published training trace: deviceProperties",
      dollarsPerGpuHour: "Day 6 article: $2 an hour for an H800",
    }),
  },
  {
    name: "h100",
    title: "NVIDIA H100 SXM",
    fp8Tflops: 1979,
    bf16Tflops: 989,
    hbmGB: 80,
    hbmGBs: 3350,
    nvlinkGBs: 450,
    nvlinkGpus: 8,
    nicGBs: 50,
    gpusPerNode: 8,
    sms: 132,
    dollarsPerGpuHour: 2.5,
    sources: from("NVIDIA H100 SXM datasheet, without sparsity", {
      nvlinkGBs: "NVLink 4: 900 GB/s both ways",
      nicGBs: cx7,
      dollarsPerGpuHour: assumedPrice,
    }),
  },
  {
    name: "h200",
    title: "NVIDIA H200 SXM",
    fp8Tflops: 1979,
    bf16Tflops: 989,
    hbmGB: 141,
    hbmGBs: 4800,
    nvlinkGBs: 450,
    nvlinkGpus: 8,
    nicGBs: 50,
    gpusPerNode: 8,
    sms: 132,
    dollarsPerGpuHour: 3,
    sources: from("NVIDIA H200 SXM datasheet, without sparsity", {
      nvlinkGBs: "NVLink 4: 900 GB/s both ways",
      nicGBs: cx7,
      dollarsPerGpuHour: assumedPrice,
    }),
  },
  {
    name: "h20",
    title: "NVIDIA H20",
    fp8Tflops: 296,
    bf16Tflops: 148,
    hbmGB: 96,
    hbmGBs: 4000,
    nvlinkGBs: 450,
    nvlinkGpus: 8,
    nicGBs: 50,
    gpusPerNode: 8,
    sms: 78,
    dollarsPerGpuHour: 1.2,
    sources: from("NVIDIA H20 product brief, as press reported it in November 2023", {
      nicGBs: `${cx7}; many machines have half`,
      dollarsPerGpuHour: assumedPrice,
    }),
  },
  {
    name: "b200",
    title: "NVIDIA B200 (HGX)",
    fp8Tflops: 4500,
    bf16Tflops: 2250,
    hbmGB: 180,
    hbmGBs: 7700,
    nvlinkGBs: 900,
    nvlinkGpus: 8,
    nicGBs: 50,
    gpusPerNode: 8,
    sms: 148,
    dollarsPerGpuHour: 5,
    sources: from("NVIDIA HGX B200 and DGX B200 datasheets, without sparsity", {
      nvlinkGBs: "NVLink 5: 1.8 TB/s both ways",
      nicGBs: cx7,
      sms: "CUDA device query, as reported by users",
      dollarsPerGpuHour: assumedPrice,
    }),
  },
  {
    name: "gb200",
    title: "NVIDIA GB200 NVL72",
    fp8Tflops: 5000,
    bf16Tflops: 2500,
    hbmGB: 186,
    hbmGBs: 8000,
    nvlinkGBs: 900,
    nvlinkGpus: 72,
    nicGBs: 50,
    gpusPerNode: 4,
    sms: 148,
    dollarsPerGpuHour: 6,
    sources: from("NVIDIA GB200 NVL72 datasheet, a seventy-second of it, without sparsity", {
      nvlinkGBs: "NVLink 5: 1.8 TB/s both ways",
      gpusPerNode: "a compute tray: 2 Grace, 4 Blackwell",
      nicGBs: cx7,
      sms: "CUDA device query, as reported by users",
      dollarsPerGpuHour: assumedPrice,
    }),
  },
];

/** The profiles, by name. */
export const hardware: Readonly<Record<string, Hardware>> = Object.fromEntries(
  profiles.map((profile) => [profile.name, profile]),
);

/** The profile `name` (case does not matter); `hardware-unknown` names the nearest one. */
export function hardwareOf(name: string): Hardware {
  const key = name.toLowerCase();
  if (Object.hasOwn(hardware, key)) return hardware[key];
  const names = Object.keys(hardware);
  const nearest = nearestName(key, names);
  const advice = nearest
    ? `did you mean ${nearest}? There are ${names.join(", ")}`
    : `take one of ${names.join(", ")}, or a JSON file with a profile`;
  throw plannerError("hardware-unknown", `hardware "${name}" has no profile: ${advice}.`);
}

/**
 * The profile that parsed JSON describes: all numbers, or `base` (a name) and those that differ.
 * Errors: `plan-input-invalid` names the field.
 */
export function parseHardware(json: unknown, name = "hardware"): Hardware {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw refuse(name, "is no JSON object", "see `baleen plan hardware --json` for one");
  }
  const given = json as Record<string, unknown>;
  const base = typeof given.base === "string" ? hardwareOf(given.base) : undefined;
  const known = [...Object.keys(fields), "name", "title", "base", "sources"];
  const odd = Object.keys(given).find((key) => !known.includes(key));
  if (odd !== undefined) {
    const meant = nearestName(odd, known);
    throw refuse(`${name}.${odd}`, "is no key", meant ? `did you mean ${meant}` : "remove it");
  }
  const value = (key: keyof typeof fields): number => {
    const whole = key === "gpusPerNode" || key === "nvlinkGpus" || key === "sms";
    return checkNumber(`${name}.${key}`, given[key] ?? base?.[key], { min: fields[key], whole });
  };
  const title = typeof given.title === "string" ? given.title : base?.title;
  const sources = Object.fromEntries(
    Object.keys(fields).map((key) => [
      key,
      given[key] === undefined ? (base?.sources[key] ?? "") : "given",
    ]),
  );
  return {
    name: typeof given.name === "string" ? given.name : name,
    title: title ?? name,
    fp8Tflops: value("fp8Tflops"),
    bf16Tflops: value("bf16Tflops"),
    hbmGB: value("hbmGB"),
    hbmGBs: value("hbmGBs"),
    nvlinkGBs: value("nvlinkGBs"),
    nvlinkGpus: value("nvlinkGpus"),
    nicGBs: value("nicGBs"),
    gpusPerNode: value("gpusPerNode"),
    sms: value("sms"),
    dollarsPerGpuHour: value("dollarsPerGpuHour"),
    sources,
  };
}
