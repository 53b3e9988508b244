#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_SOURCE_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_SOURCE_H_

// Sketch: opens files below --adapter_dir (openat2 RESOLVE_BENEATH |
// RESOLVE_NO_MAGICLINKS, O_NONBLOCK, regular file check), reads them whole from
// one descriptor, hashes those bytes.

#endif
