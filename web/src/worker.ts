// The student's worker on WebAssembly.
import * as ort from "onnxruntime-web/wasm";
import { serve } from "./serve";

serve(ort, "wasm", "ort-wasm-simd-threaded");
