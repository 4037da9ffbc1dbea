#include <pthread.h>

#include <chrono>
#include <stdexcept>

#include "base/interrupt.h"

namespace kpdeform {
namespace {

struct Python {
  unsigned long main_thread = 0;
  int (*take_interrupt)() = nullptr;  // returns and clears the pending SIGINT
  void (*set_interrupt)() = nullptr;  // makes SIGINT pending again
} python;

}  // namespace

void interruption_point() {
  using Clock = std::chrono::steady_clock;
  if (python.take_interrupt == nullptr || (unsigned long)pthread_self() != python.main_thread)
    return;
  static Clock::time_point next;
  const Clock::time_point now = Clock::now();
  if (now < next) return;
  next = now + std::chrono::milliseconds(50);
  if (python.take_interrupt() == 0) return;
  python.set_interrupt();  // the handler runs when Python code runs again
  throw std::runtime_error("kpdeform was interrupted");  // ops/_call.py recognises this message
}

}  // namespace kpdeform

// Called once by kpdeform/_library.py: csrc itself uses no Python API.
extern "C" __attribute__((visibility("default"))) void kpdeform_hear_interrupts(
    unsigned long main_thread, int (*take_interrupt)(), void (*set_interrupt)()) {
  kpdeform::python = {main_thread, take_interrupt, set_interrupt};
}
