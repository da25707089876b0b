"""Makes a GGUF file in Q4_K_M of one in 16 bits, by llama.cpp: quantize.py FROM TO."""

import ctypes
import sys

import llama_cpp


def main() -> None:
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    params.nthread = 2
    source, target = sys.argv[1:]
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), params) != 0:
        sys.exit(f"{source} was not quantised")


if __name__ == "__main__":
    main()
