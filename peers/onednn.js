/**
 * @file oneDNN as a peer: its matmul primitive (C interface of version 2) through koffi, in this
 * process. Weights are brought into the order it asks for once, beforehand, as ours are packed.
 * Operands are addresses, row-major.
 */
import koffi from "koffi";

const library = "libdnnl.so.2";
/** Numbers of the C interface: dtypes, engine, format, queries, places of arguments. */
const dtypes = { bf16: 2, f32: 3 };
const cpuEngine = 1;
const anyFormat = 1;
const inOrder = 1;
const query = { implementation: 8, weights: 131 };
const argument = { source: 1, to: 17, weights: 33 };
/** `void*` that asks oneDNN to allocate the memory. */
const allocate = -1;

/** The functions in use, which throw where oneDNN reports a failure. */
function interfaceOf(dnnl) {
  const [i, p, l] = ["int", "void *", "int64_t"];
  const call = (name, types) => {
    const f = dnnl.func(name, "int", types);
    return (...args) => {
      const status = f(...args);
      if (status !== 0) throw new Error(`${name} of oneDNN failed with status ${status}`);
    };
  };
  return {
    version: koffi.decode(dnnl.func("dnnl_version", p, [])(), "int", 3),
    engine: call("dnnl_engine_create", [p, i, "size_t"]),
    stream: call("dnnl_stream_create", [p, l, i]),
    strided: call("dnnl_memory_desc_init_by_strides", [p, i, p, i, p]),
    tagged: call("dnnl_memory_desc_init_by_tag", [p, i, p, i, i]),
    matmul: call("dnnl_matmul_desc_init", [p, p, p, l, p]),
    description: call("dnnl_primitive_desc_create", [p, p, l, l, l]),
    descriptionOf: dnnl.func("dnnl_primitive_desc_query_md", l, [l, i, i]),
    query: call("dnnl_primitive_desc_query", [l, i, i, p]),
    reorder: call("dnnl_reorder_primitive_desc_create", [p, p, l, l, l, l]),
    primitive: call("dnnl_primitive_create", [p, l]),
    memory: call("dnnl_memory_create", [p, l, l, l]),
    memoryOf: call("dnnl_memory_create", [p, p, l, l]),
    execute: call("dnnl_primitive_execute", [l, l, i, p]),
    wait: call("dnnl_stream_wait", [l]),
  };
}

/** oneDNN, or a line that says how to install it. */
export function openOnednn() {
  let dnnl;
  let omp;
  try {
    dnnl = koffi.load(library);
    omp = koffi.load("libgomp.so.1");
  } catch {
    return { absent: `${library} is not here: apt-get install libdnnl2` };
  }
  const api = interfaceOf(dnnl);
  const setThreads = omp.func("omp_set_num_threads", "void", ["int"]);
  /** What `create` writes as a pointer, as a Number. */
  const made = (create) => {
    const place = new BigInt64Array(1);
    create(place);
    return Number(place[0]);
  };
  const engine = made((place) => api.engine(place, cpuEngine, 0));
  const stream = made((place) => api.stream(place, engine, inOrder));
  const pairs = (...args) => {
    const bytes = new DataView(new ArrayBuffer(16 * args.length));
    args.forEach(([kind, memory], at) => {
      bytes.setInt32(16 * at, kind, true);
      bytes.setBigInt64(16 * at + 8, BigInt(memory), true);
    });
    return new Uint8Array(bytes.buffer);
  };
  // Descriptions are structs of some hundred bytes that only oneDNN looks into.
  const description = (init) => {
    const bytes = new Uint8Array(1 << 16);
    init(bytes);
    return bytes;
  };
  const matrix = (dtype, rows, columns, strides) =>
    description((bytes) =>
      api.strided(
        bytes,
        2,
        BigInt64Array.of(BigInt(rows), BigInt(columns)),
        dtypes[dtype],
        BigInt64Array.from(strides.map(BigInt)),
      ),
    );
  return {
    name: `oneDNN ${api.version.join(".")}`,
    /** A function that computes d = a b^T in float32, a `[m, k]`, b `[n, k]` of `dtype`. */
    matmulNt: ({ dtype, m, n, k, a, b, d, threads }) => {
      setThreads(threads);
      const left = matrix(dtype, m, k, [k, 1]);
      const right = matrix(dtype, k, n, [1, k]);
      const wanted = description((bytes) =>
        api.tagged(bytes, 2, BigInt64Array.of(BigInt(k), BigInt(n)), dtypes[dtype], anyFormat),
      );
      const result = matrix("f32", m, n, [n, 1]);
      const matmul = description((bytes) => api.matmul(bytes, left, wanted, 0, result));
      const plan = made((place) => api.description(place, matmul, 0, engine, 0));
      const packedDescription = api.descriptionOf(plan, query.weights, 0);
      const packed = made((place) => api.memory(place, packedDescription, engine, allocate));
      const raw = made((place) => api.memoryOf(place, right, engine, b));
      const reorderPlan = made((place) =>
        api.reorder(place, right, engine, packedDescription, engine, 0),
      );
      const reorder = made((place) => api.primitive(place, reorderPlan));
      api.execute(reorder, stream, 2, pairs([argument.source, raw], [argument.to, packed]));
      api.wait(stream);
      const primitive = made((place) => api.primitive(place, plan));
      const args = pairs(
        [argument.source, made((place) => api.memoryOf(place, left, engine, a))],
        [argument.weights, packed],
        [argument.to, made((place) => api.memoryOf(place, result, engine, d))],
      );
      return () => {
        setThreads(threads);
        api.execute(primitive, stream, 3, args);
        api.wait(stream);
      };
    },
  };
}
