// The student's worker on WebGPU: another, larger runtime, fetched only when a visitor asks for it.
import * as ort from "onnxruntime-web/webgpu";
import { serve } from "./serve";

serve(ort, "webgpu", "ort-wasm-simd-threaded.asyncify");
