/**
 * @file Which kernel is what: a table of patterns over names, the first that fits wins. Names are
 * public: DeepEP's namespaces, NCCL's names before and after 2.19, NVSHMEM, the kernels of pplx,
 * vLLM, FlashInfer and PyTorch.
 */
import { profileError } from "./errors.ts";

/** One line of the table. */
export interface KernelRule {
  readonly category: string;
  /** Tested against the kernel's name, anywhere in it. */
  readonly pattern: RegExp;
  /** Whether such kernels are communication; default: computation. */
  readonly communication?: boolean;
}

/** The category of copies and fills, which are neither communication nor computation. */
export const memoryCategory = "memory";
/** The category of kernels that no rule knows. */
export const otherCategory = "other";

const deepEp = "(?:deep_ep|dpsk::ep)::(?:\\w+::)*";

/** A rule of communication. */
const talk = (category: string, pattern: RegExp): KernelRule => ({
  category,
  pattern,
  communication: true,
});

/** The table that every report begins with. */
export const kernelRules: readonly KernelRule[] = [
  talk("ep.notify", new RegExp(`${deepEp}(?:cached_)?notify`)),
  talk("ep.layout", new RegExp(`${deepEp}get_dispatch_layout`)),
  talk("ep.dispatch", new RegExp(`${deepEp}(?:\\w*_)?dispatch`)),
  talk("ep.combine", new RegExp(`${deepEp}(?:\\w*_)?combine`)),
  talk("ep.other", new RegExp(deepEp)),
  talk("nccl", /^(?:void )?(?:nccl|rccl)\w*Kernel|^ncclSymk|^(?:void )?msccl/),
  talk("nvshmem", /nvshmem/i),
  talk("pplx.dispatch", /pplx\w*::.*dispatch|a2a_dispatch|AllToAll\w*::dispatch/i),
  talk("pplx.combine", /pplx\w*::.*combine|a2a_combine|AllToAll\w*::combine/i),
  talk("mori", /\bmori::|EpDispatch|EpCombine/),
  talk("all-to-all", /moe_?(?:all_?to_?all|a2a)|all_?to_?all_?(?:v_)?kernel/i),
  talk(
    "all-reduce",
    /cross_device_reduce|all_?reduce_fusion|(?:one|two)_?shot_?all_?reduce|multimem_all|symm_mem/i,
  ),
  // Pipeline schedules, as dualpipe traces them.
  { category: "forward", pattern: /^F$/ },
  { category: "backward", pattern: /^B(?: input)?$/ },
  { category: "weights", pattern: /^W$/ },
  { category: "forward & backward", pattern: /^F&B$/ },
  { category: "attention", pattern: /flash_?(?:attn|fwd|bwd|mla)|flash::|fmha|attention|\bmla_/i },
  { category: "fp8 GEMM", pattern: /fp8\w*::GemmKernel|fp8\w*_gemm|gemm\w*(?:fp8|e4m3|e5m2)/i },
  { category: "swiglu", pattern: /swiglu|silu_and_mul|silu_mul|act_and_mul/i },
  { category: "cast/quant", pattern: /(?:token|channel|block|group)_(?:cast|quant)|cast_back/i },
  { category: "cast/quant", pattern: /quantiz|quant_fp8|to_fp8/i },
  { category: "norm", pattern: /layer_?norm|rms_?norm/i },
  { category: "rotary", pattern: /rotary|rope_|_rope/i },
  {
    category: "moe route/permute",
    pattern:
      /cuda::(?:topk_|expand_to_fused|reduce_fused|unique_group|aux_fi|get_fused_mapping|clean_and_count)/,
  },
  {
    category: "moe route/permute",
    pattern: /permute_|moe_|_moe|experts?_|grouped_topk|topk_soft/i,
  },
  { category: "torch native", pattern: /at::native|at_cuda_detail|_ZN2at6native|\bcub::|thrust::/ },
  { category: "triton", pattern: /^triton_/ },
  { category: "transpose", pattern: /transpose/i },
  // Descriptors of a product's operands, made by a kernel of the same namespace.
  { category: otherCategory, pattern: /tensormap/ },
  { category: "bf16/fp32 cuBLAS", pattern: /xmma_gemm|cublas|nvjet|gemm|gemv|splitk/i },
];

/** What a kernel is. */
export interface KernelClass {
  readonly category: string;
  readonly communication: boolean;
}

/**
 * The function from kernel names to classes: `rules` come before the table. `communication`, where
 * given, alone says what is communication; categories stay.
 */
export function classifier(
  rules: readonly KernelRule[] = [],
  communication?: RegExp,
): (name: string) => KernelClass {
  for (const [index, { category, pattern }] of rules.entries()) {
    const problem =
      typeof category !== "string" || category === ""
        ? "category: give it a name"
        : !(pattern instanceof RegExp)
          ? "pattern: give a regular expression"
          : undefined;
    if (problem !== undefined) {
      throw profileError("profile-input-invalid", `rules[${index}] has no ${problem}.`);
    }
  }
  const table = [...rules, ...kernelRules].map((rule) => ({
    ...rule,
    pattern: plain(rule.pattern),
  }));
  const only = communication && plain(communication);
  return (name) => {
    const rule = table.find(({ pattern }) => pattern.test(name));
    const category = rule?.category ?? otherCategory;
    return { category, communication: only?.test(name) ?? rule?.communication ?? false };
  };
}

/** A pattern without the flags that make `test` remember where it was. */
function plain(pattern: RegExp): RegExp {
  return new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, ""));
}
