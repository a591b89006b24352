/**
 * @file OpenBLAS as a peer: `cblas_sgemm` through koffi, in this process. It packs both operands at
 * each call. Operands are addresses of float32, row-major.
 */
import koffi from "koffi";

const library = "libopenblas.so.0";
const [rowMajor, plain, transposed] = [101, 111, 112];

/** OpenBLAS, or a line that says how to install it. */
export function openOpenblas() {
  let blas;
  // Variables that may hold it back, such as to kernels of 256 bits: it chooses best by itself.
  delete process.env.OPENBLAS_CORETYPE;
  delete process.env.OPENBLAS_L2_SIZE;
  try {
    blas = koffi.load(library);
  } catch {
    return { absent: `${library} is not here: apt-get install libopenblas0-pthread` };
  }
  const [i, f, a] = ["int", "float", "int64_t"];
  const sgemm = blas.func("cblas_sgemm", "void", [i, i, i, i, i, i, f, a, i, a, i, f, a, i]);
  const setThreads = blas.func("openblas_set_num_threads", "void", [i]);
  const name = blas.func("openblas_get_config", "str", [])().trim();
  const core = blas.func("openblas_get_corename", "str", [])();
  return {
    name: `${name.split(" ").slice(0, 2).join(" ")} (${core})`,
    /** A function that computes d = a b^T, a `[m, k]`, b `[n, k]`, with so many threads. */
    sgemmNt: ({ m, n, k, a, b, d, threads }) => {
      return () => {
        setThreads(threads);
        sgemm(rowMajor, plain, transposed, m, n, k, 1, a, k, b, k, 0, d, n);
      };
    },
  };
}
