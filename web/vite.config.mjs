// Builds the page into the Python package: src/attar/page/static. Its runtime's files are copied beside it, as they are.
import { copyFileSync, mkdirSync, readFileSync } from "node:fs";
import { defineConfig } from "vite";

const OUT = "../src/attar/page/static";
const ORT = "node_modules/onnxruntime-web";
const VERSION = JSON.parse(readFileSync(`${ORT}/package.json`, "utf8")).version;
// The second pair is WebGPU's: no wheel holds it, and no visitor fetches it without asking.
const FILES = ["ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify"].flatMap((n) => [`${n}.mjs`, `${n}.wasm`]);

const runtime = {
  name: "runtime",
  closeBundle() {
    mkdirSync(`${OUT}/runtime/${VERSION}`, { recursive: true });
    for (const name of FILES) copyFileSync(`${ORT}/dist/${name}`, `${OUT}/runtime/${VERSION}/${name}`);
  },
};

export default defineConfig({
  base: "./",
  define: { __RUNTIME__: JSON.stringify(`../runtime/${VERSION}/`) },
  // The runtime without its WebAssembly inside: that is fetched from its own files.
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", "module", "browser"] },
  plugins: [runtime],
  worker: { format: "es" },
  build: { outDir: OUT, emptyOutDir: true, target: "es2022", modulePreload: false, reportCompressedSize: false },
});
