// Ctrl-C during a native call. Python only records the signal and runs its handler after the call,
// so long loops check from time to time whether there was one, and end early.
#pragma once

namespace kpdeform {

// Throws if Ctrl-C was pressed. Python's main thread checks at most twenty times per second; every
// other call only reads the clock.
void interruption_point();

}  // namespace kpdeform
