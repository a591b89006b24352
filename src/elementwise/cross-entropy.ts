/**
 * @file What both rungs of the cross-entropy share: the checks, and the few numbers of a row that
 * are computed in float64 from its maximum and its sum of exponentials.
 */
import { assert, assertEqual } from "../base/index.ts";
import { checkRows, checkVector } from "./checks.ts";
import type { CrossEntropy } from "./types.ts";

/** The target that says that a row has none, as in PyTorch. */
const defaultIgnore = -100;

/** Whether a row has no target. */
function isIgnored({ targets, ignoreTarget = defaultIgnore }: CrossEntropy, row: number): boolean {
  return targets.data[row] === ignoreTarget;
}

/** Every address of a call lies inside its memory. */
export function checkCrossEntropy(call: CrossEntropy): void {
  const { logits, targets, rows, losses, gradient, scale = 1 } = call;
  const classes = logits.shape.at(-1) ?? 0;
  assertEqual(logits.dtype, "f32", "dtype of logits");
  assertEqual(targets.dtype, "i32", "dtype of targets");
  assertEqual(losses.dtype, "f32", "dtype of losses");
  checkRows("logits", logits, rows, classes);
  checkVector("targets", targets, rows);
  checkVector("losses", losses, rows);
  assert(Number.isFinite(scale), () => `scale: got ${scale}, wanted a finite number`);
  if (gradient !== undefined) {
    assertEqual(gradient.dtype, "f32", "dtype of gradient");
    checkRows("gradient", gradient, rows, classes);
  }
  for (let r = 0; r < rows; r++) {
    const target = targets.data[r];
    assert(
      isIgnored(call, r) || (target >= 0 && target < classes),
      () => `targets[${r}]: got ${target}, wanted 0..${classes - 1} or ignoreTarget`,
    );
  }
}

/** The logit of each row's target, read before the gradient may take its place; 0 without one. */
export function targetLogits(call: CrossEntropy): Float32Array {
  const { logits, targets, rows } = call;
  return Float32Array.from({ length: rows }, (_, r) =>
    isIgnored(call, r) ? 0 : logits.data[r * logits.stride + targets.data[r]],
  );
}

/**
 * Writes the loss of row `row`, and the gradient at its target, whose two parts nearly cancel where
 * the model is sure: from float64. Ignored rows get zeros.
 */
export function finishRow(
  call: CrossEntropy,
  row: number,
  logit: number,
  max: number,
  sum: number,
): void {
  const { logits, targets, losses, gradient, scale = 1 } = call;
  const start = gradient === undefined ? 0 : row * gradient.stride;
  if (isIgnored(call, row)) {
    losses.data[row] = 0;
    gradient?.data.fill(0, start, start + (logits.shape.at(-1) ?? 0));
    return;
  }
  losses.data[row] = Math.log(sum) + (max - logit);
  if (gradient === undefined) return;
  gradient.data[start + targets.data[row]] = scale * (Math.exp(logit - max) / sum - 1);
}
