/** @file A worker process of a sort: takes a task, answers with its result, ends with its parent. */
import { openDevice } from "../../device/index.ts";
import { openKernels } from "./kernels.ts";
import { runTask, type Task, type TaskResult } from "./tasks.ts";

/** What the worker answers. */
export type Reply =
  | { readonly result: TaskResult }
  | { readonly error: { readonly code: string; readonly message: string } };

const kernels = openKernels(openDevice({ threads: 1 }));

async function answer(task: Task): Promise<Reply> {
  try {
    return { result: await runTask(kernels, task) };
  } catch (error) {
    const { code = "task-failed", message } = error as { code?: string; message: string };
    return { error: { code, message } };
  }
}

process.on("message", (task: Task) => {
  void answer(task).then((reply) => process.send?.(reply));
});
process.on("disconnect", () => process.exit());
