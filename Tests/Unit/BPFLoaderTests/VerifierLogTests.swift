// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import Testing

@Suite struct VerifierLogTests {
    @Test func theTellingLineIsTheComplaint() {
        let log = """
            libbpf: prog 'vip_bind4': BPF program load failed: Permission denied
            libbpf: prog 'vip_bind4': -- BEGIN PROG LOAD LOG --
            0: R1=ctx() R10=fp0
            ; int vip_bind4(struct bpf_sock_addr *ctx) @ vip.bpf.c:85
            0: (bf) r6 = r1                       ; R1=ctx() R6_w=ctx()
            1: (79) r1 = *(u64 *)(r3 +32)
            access beyond the end of member hash (mend:4) in struct (anon) with off 0 size 8
            processed 436 insns (limit 1000000) max_states_per_insn 2 total_states 38 peak_states 38 mark_read 13
            -- END PROG LOAD LOG --
            libbpf: prog 'vip_bind4': failed to load: -13
            """
        #expect(
            tellingLine(ofVerifierLog: log)
                == "access beyond the end of member hash (mend:4) in struct (anon) with off 0 size 8")
    }

    @Test func withoutALogItIsWhatLibbpfSays() {
        let log = "libbpf: map 'sessions': failed to create: Cannot allocate memory(-12)\n"
        #expect(tellingLine(ofVerifierLog: log) == "map 'sessions': failed to create: Cannot allocate memory(-12)")
        #expect(tellingLine(ofVerifierLog: "") == nil)
    }
}
