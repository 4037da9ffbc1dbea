// Labels a cloud with a network that export.py has compiled. No Python takes part.
//   label kpdeform/_C.so model.pt2 inputs.pt labels.pt
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/serialize.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

static std::vector<char> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string("cannot open ") + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: label kpdeform/_C.so model.pt2 inputs.pt labels.pt\n";
    return 1;
  }
  // The library registers kpdeform's ops, which the compiled network calls by name.
  if (!dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL)) {
    std::cerr << dlerror() << "\n";
    return 1;
  }
  try {
    c10::InferenceMode guard;
    torch::inductor::AOTIModelPackageLoader network(argv[2]);
    const c10::IValue loaded = torch::pickle_load(read(argv[3]));
    std::vector<at::Tensor> inputs;
    for (const c10::IValue& input : loaded.toListRef()) inputs.push_back(input.toTensor());
    const at::Tensor labels = network.run(inputs)[0].argmax(1);
    const std::vector<char> bytes = torch::pickle_save(labels);
    std::ofstream(argv[4], std::ios::binary).write(bytes.data(), bytes.size());
    std::cout << "labelled " << labels.size(0) << " points\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
